//! Lists of names, titles and departments.

use super::Department;

const fn department(
    id: u32,
    parent: u32,
    name: &'static str,
    industry: &'static str,
) -> Department {
    Department {
        id,
        parent,
        name,
        industry,
    }
}

/// Departments, parents before children; ids have gaps, as in real tenants.
pub(super) const DEPARTMENTS: &[Department] = &[
    department(1, 0, "恒润集团", "office"),
    department(10, 1, "财富管理中心", "wealth"),
    department(20, 1, "保险事业部", "insurance"),
    department(30, 1, "健康医疗事业部", "health"),
    department(40, 1, "教育培训事业部", "education"),
    department(50, 1, "银行合作部", "bank"),
    department(60, 1, "客户服务中心", "service"),
    department(70, 1, "职能中心", "office"),
    department(11, 10, "华东财富部", "wealth"),
    department(12, 10, "华南财富部", "wealth"),
    department(13, 10, "投资顾问部", "wealth"),
    department(21, 20, "个险销售部", "insurance"),
    department(22, 20, "理赔服务部", "insurance"),
    department(23, 20, "续期服务部", "insurance"),
    department(31, 30, "门诊部", "health"),
    department(32, 30, "药品与慢病管理部", "health"),
    department(35, 30, "体检中心", "health"),
    department(41, 40, "课程顾问部", "education"),
    department(42, 40, "教务部", "education"),
    department(51, 50, "信贷部", "bank"),
    department(52, 50, "信用卡业务部", "bank"),
    department(61, 60, "售后一组", "service"),
    department(62, 60, "售后二组", "service"),
    department(71, 70, "人力资源部", "office"),
    department(72, 70, "财务部", "office"),
    department(73, 70, "合规与风控部", "office"),
    department(78, 70, "信息技术部", "office"),
    department(79, 70, "行政采购部", "office"),
];

/// Returns the titles of an industry, the leader's first.
pub(super) fn titles(industry: &str) -> &'static [&'static str] {
    match industry {
        "wealth" => &[
            "财富总监",
            "理财经理",
            "高级理财经理",
            "投资顾问",
            "客户经理",
        ],
        "insurance" => &[
            "营业部经理",
            "保险顾问",
            "高级保险顾问",
            "理赔专员",
            "续期专员",
        ],
        "health" => &["科室主任", "主治医师", "护士长", "健康管理师", "药师"],
        "education" => &["教学主管", "课程顾问", "学习规划师", "班主任", "讲师"],
        "bank" => &[
            "业务主管",
            "客户经理",
            "信贷审批员",
            "信用卡专员",
            "柜面经理",
        ],
        "service" => &["客服主管", "客服专员", "售后工程师", "资深客服", "质检员"],
        _ => &["部门经理", "专员", "高级专员", "工程师", "主管"],
    }
}

/// Surnames with their Pinyin.
pub(super) const SURNAMES: &[(&str, &str)] = &[
    ("王", "wang"),
    ("李", "li"),
    ("张", "zhang"),
    ("刘", "liu"),
    ("陈", "chen"),
    ("杨", "yang"),
    ("黄", "huang"),
    ("赵", "zhao"),
    ("周", "zhou"),
    ("吴", "wu"),
    ("徐", "xu"),
    ("孙", "sun"),
    ("马", "ma"),
    ("朱", "zhu"),
    ("胡", "hu"),
    ("郭", "guo"),
    ("何", "he"),
    ("林", "lin"),
    ("罗", "luo"),
    ("高", "gao"),
    ("郑", "zheng"),
    ("梁", "liang"),
    ("谢", "xie"),
    ("宋", "song"),
    ("唐", "tang"),
    ("许", "xu"),
    ("韩", "han"),
    ("冯", "feng"),
    ("邓", "deng"),
    ("曹", "cao"),
    ("彭", "peng"),
    ("曾", "zeng"),
    ("欧阳", "ouyang"),
];

/// Parts of given names with their Pinyin.
pub(super) const GIVEN: &[(&str, &str)] = &[
    ("伟", "wei"),
    ("芳", "fang"),
    ("娜", "na"),
    ("敏", "min"),
    ("静", "jing"),
    ("丽", "li"),
    ("强", "qiang"),
    ("磊", "lei"),
    ("军", "jun"),
    ("洋", "yang"),
    ("勇", "yong"),
    ("艳", "yan"),
    ("杰", "jie"),
    ("娟", "juan"),
    ("涛", "tao"),
    ("明", "ming"),
    ("超", "chao"),
    ("秀英", "xiuying"),
    ("霞", "xia"),
    ("平", "ping"),
    ("刚", "gang"),
    ("桂英", "guiying"),
    ("子涵", "zihan"),
    ("雨桐", "yutong"),
    ("浩然", "haoran"),
    ("欣怡", "xinyi"),
    ("梓轩", "zixuan"),
    ("诗琪", "shiqi"),
    ("嘉豪", "jiahao"),
    ("思远", "siyuan"),
    ("佳宁", "jianing"),
    ("文博", "wenbo"),
    ("晓燕", "xiaoyan"),
    ("建国", "jianguo"),
    ("志强", "zhiqiang"),
    ("海燕", "haiyan"),
    ("宇航", "yuhang"),
    ("梦洁", "mengjie"),
    ("俊峰", "junfeng"),
    ("雪梅", "xuemei"),
];

/// Names of customer groups; `{}` is a surname.
pub(super) const CUSTOMER_ROOMS: &[&str] = &[
    "恒润财富VIP服务群",
    "{}总家庭资产配置群",
    "新客福利群{}",
    "{}经理的客户交流群",
    "慢病管理打卡群",
    "家长交流群（{}老师）",
    "售后服务群{}",
    "企业团险对接群",
    "体检预约咨询群",
    "",
];

/// Names of internal rooms.
pub(super) const INTERNAL_ROOMS: &[&str] = &[
    "客户中台项目组",
    "每日晨会",
    "理赔疑难案件讨论",
    "合规通知群",
    "年会筹备组",
    "午饭搭子",
    "产品需求对接",
    "值班与告警",
    "新人带教群",
    "",
];

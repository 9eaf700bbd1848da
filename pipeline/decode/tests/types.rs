//! Decodes a sample of every message type of `connectors/wecom/WECOM.md` §4.2 and checks its content.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

use chatledger_decode::decode;
use chatledger_schemas::{CorpId, Message};
use serde_json::{Value, json};

/// Returns a message of this type with the common fields and the fields of `rest`.
fn message(msgtype: &str, rest: Value) -> Value {
    let mut message = json!({
        "msgid": "inner", "action": "send", "from": "liwei",
        "tolist": ["wmKunde"], "roomid": "", "msgtime": 1_760_000_000_123_i64, "msgtype": msgtype,
    });
    let fields = rest.as_object().unwrap().clone();
    message.as_object_mut().unwrap().extend(fields);
    message
}

fn decoded(message: &Value) -> Message {
    let corp = CorpId::from("wwcorp");
    decode(&corp, 7, "m1", 2, message.to_string().into_bytes()).unwrap()
}

/// Checks that the type is kept, the content is `lines`, and the payload is unchanged.
fn check(msgtype: &str, rest: Value, lines: &[&str]) {
    let sent = message(msgtype, rest);
    let got = decoded(&sent);
    assert_eq!(got.content, lines.join("\n"), "{msgtype}");
    assert_eq!(got.msgtype, msgtype);
    assert_eq!(got.payload, sent.to_string());
    assert_eq!(got.conversation_id, "liwei|wmKunde");
}

#[test]
fn text_types_give_their_text() {
    check(
        "text",
        json!({"text": {"content": "您好，\n保单已寄出[微笑]"}}),
        &["您好，\n保单已寄出[微笑]"],
    );
    check(
        "markdown",
        json!({"info": {"content": "**周报**\n> 已完成"}}),
        &["**周报**\n> 已完成"],
    );
    check(
        "markdown",
        json!({"markdown": {"content": "周报"}}),
        &["周报"],
    );
    check(
        "meeting_notification",
        json!({"info": {"meeting_id": 42, "notification_type": 1, "content": "会议十分钟后开始"}}),
        &["会议十分钟后开始"],
    );
    check(
        "todo",
        json!({"todo": {"title": "回访", "content": "周五前联系王女士"}}),
        &["回访", "周五前联系王女士"],
    );
    check(
        "redpacket",
        json!({"redpacket": {"type": 2, "wish": "恭喜发财", "totalcnt": 3, "totalamount": 3000}}),
        &["恭喜发财"],
    );
    check(
        "external_redpacket",
        json!({"redpacket": {"type": 1, "wish": "生日快乐", "totalcnt": 1}}),
        &["生日快乐"],
    );
    check(
        "external_redpacket",
        json!({"external_redpacket": {"wish": "大吉大利"}}),
        &["大吉大利"],
    );
    check(
        "sphfeed",
        json!({"sphfeed": {"feed_type": 4, "sph_name": "理财课堂", "feed_desc": "三分钟看懂年金"}}),
        &["理财课堂", "三分钟看懂年金"],
    );
}

#[test]
fn reference_types_give_titles_and_names() {
    check(
        "card",
        json!({"card": {"corpname": "华东保险", "userid": "zhangmin"}}),
        &["华东保险", "zhangmin"],
    );
    check(
        "card",
        json!({"card": {"corpname": "华东保险", "Userid": "zhangmin"}}),
        &["华东保险", "zhangmin"],
    );
    check(
        "location",
        json!({"location": {"longitude": 121.47, "latitude": 31.23, "address": "上海市黄浦区南京东路1号", "title": "营业部", "zoom": 15}}),
        &["营业部", "上海市黄浦区南京东路1号"],
    );
    check(
        "file",
        json!({"file": {"filename": "投保书.pdf", "fileext": "pdf", "filesize": 18, "sdkfileid": "c2Rr", "md5sum": "00"}}),
        &["投保书.pdf"],
    );
    check(
        "qydiskfile",
        json!({"info": {"filename": "费率表.xlsx"}}),
        &["费率表.xlsx"],
    );
    check(
        "voip_doc_share",
        json!({"voipid": "v", "voip_doc_share": {"filename": "方案.pptx", "sdkfileid": "c2Rr"}}),
        &["方案.pptx"],
    );
    check(
        "voipdocshare",
        json!({"voipdocshare": {"filename": "方案.pptx"}}),
        &["方案.pptx"],
    );
    check(
        "link",
        json!({"link": {"title": "活动", "description": "限时报名", "link_url": "https://example.com/a", "image_url": "https://example.com/b"}}),
        &["活动", "限时报名"],
    );
    check(
        "weapp",
        json!({"weapp": {"title": "报价单", "description": "点击查看", "username": "gh_0@app", "displayname": "保险助手"}}),
        &["报价单", "点击查看", "保险助手"],
    );
    check(
        "docmsg",
        json!({"doc": {"title": "三季度计划", "link_url": "https://example.com", "doc_creator": "liwei"}}),
        &["三季度计划"],
    );
    check(
        "news",
        json!({"info": {"item": [
            {"title": "头条", "description": "新品上线", "url": "https://example.com", "picurl": ""},
            {"title": "次条", "description": "", "url": "https://example.com"}]}}),
        &["头条", "新品上线", "次条"],
    );
    check(
        "news",
        json!({"info": {"title": "旧式", "description": "没有条目", "url": ""}}),
        &["旧式", "没有条目"],
    );
}

#[test]
fn collaboration_types_give_the_text_people_wrote() {
    let vote = json!({"votetitle": "团建去哪", "voteitem": ["黄山", "千岛湖"], "votetype": 101, "voteid": "v1"});
    check(
        "vote",
        json!({"vote": vote}),
        &["团建去哪", "黄山", "千岛湖"],
    );
    check("vote", vote, &["团建去哪", "黄山", "千岛湖"]);
    check(
        "collect",
        json!({"collect": {"room_name": "一组", "creator": "liwei", "create_time": "2025-10-09 16:53:20", "title": "体检报名",
            "details": [{"id": 1, "ques": "姓名", "type": "Text"}, {"id": 2, "ques": "日期", "type": "Date"}]}}),
        &["一组", "体检报名", "姓名", "日期"],
    );
    check(
        "meeting",
        json!({"meeting": {"topic": "续期复盘", "starttime": 1, "endtime": 2, "address": "三楼", "remarks": "带数据", "meetingtype": 101, "meetingid": 5}}),
        &["续期复盘", "三楼", "带数据"],
    );
    check(
        "calendar",
        json!({"calendar": {"title": "面访", "creatorname": "李伟", "attendeename": ["王芳", "赵敏"], "starttime": 1, "endtime": 2, "place": "客户公司", "remarks": "带合同"}}),
        &["面访", "李伟", "王芳", "赵敏", "客户公司", "带合同"],
    );
    check(
        "meeting_voice_call",
        json!({"voiceid": "v", "meeting_voice_call": {"endtime": 9, "sdkfileid": "c2Rr",
            "demofiledata": [{"filename": "演示.pptx", "demooperator": "liwei"}, {"filename": "报价.xlsx"}],
            "sharescreendata": [{"share": "liwei", "starttime": 1, "endtime": 2}]}}),
        &["演示.pptx", "报价.xlsx"],
    );
    check(
        "meetingvoicecall",
        json!({"meetingvoicecall": {"demofiledata": [{"filename": "a.pdf"}]}}),
        &["a.pdf"],
    );
}

#[test]
fn types_without_searchable_text_give_empty_content() {
    let media = json!({"sdkfileid": "c2Rr", "md5sum": "0123", "filesize": 5, "play_length": 3, "content": "x", "title": "y"});
    for msgtype in ["image", "voice", "video", "emotion"] {
        check(msgtype, json!({msgtype: media}), &[]);
    }
    check(
        "revoke",
        json!({"action": "recall", "revoke": {"pre_msgid": "m0"}}),
        &[],
    );
    check(
        "agree",
        json!({"agree": {"userid": "wmKunde", "agree_time": 1}}),
        &[],
    );
    check(
        "disagree",
        json!({"disagree": {"userid": "wmKunde", "disagree_time": 1}}),
        &[],
    );
    check(
        "voiptext",
        json!({"info": {"callduration": 10, "invitetype": 1, "content": "x"}}),
        &[],
    );
}

#[test]
fn type_that_is_not_known_gives_the_strings_of_fields_that_hold_text() {
    check(
        "note",
        json!({"note": {"title": "会议笔记", "content": "供应商返点三成", "sdkfileid": "c2Rr", "md5sum": "0123",
            "items": [{"name": "第一条", "doc_url": "https://example.com"}, {"Remark": "备注"}], "count": 3}}),
        // `json!` sorts the fields.
        &["供应商返点三成", "第一条", "备注", "会议笔记"],
    );
    check(
        "solitaire",
        json!({"solitaire": {"title": "新类型"}, "info": {"content": "x"}}),
        &["新类型"],
    );
    check("memo", json!({"info": {"subject": "主题"}}), &["主题"]);
    check("memo", json!({"memo": "直接写着"}), &["直接写着"]);
    check("memo", json!({"memo": "{\"text\":\"串里\"}"}), &["串里"]);
    check(
        "memo",
        json!({"other_key": {"options": ["甲", "乙"]}}),
        &["甲", "乙"],
    );
    check(
        "memo",
        json!({"memo": {"id": "x", "key": "y", "url": "z", "userid": "u"}}),
        &[],
    );
}

#[test]
fn forwarded_items_of_every_kind_give_the_text_of_the_same_message() {
    let forwarded = |kind: &str, body: Value, expected: &[&str]| {
        let item = json!({"type": kind, "content": body.to_string()});
        let record = json!({"chatrecord": {"title": "记录", "item": [item]}});
        let expected: Vec<&str> = std::iter::once("记录")
            .chain(expected.iter().copied())
            .collect();
        check("chatrecord", record, &expected);
    };
    forwarded(
        "ChatRecordMeeting",
        json!({"topic": "会议返点", "address": "", "remarks": "备注"}),
        &["会议返点", "备注"],
    );
    forwarded(
        "ChatRecordWeapp",
        json!({"title": "小程序", "description": "d", "username": "x@app", "displayname": "显示名返点"}),
        &["小程序", "d", "显示名返点"],
    );
    forwarded(
        "ChatRecordVote",
        json!({"votetitle": "投票返点", "voteitem": ["选项"]}),
        &["投票返点", "选项"],
    );
    forwarded(
        "ChatRecordCollect",
        json!({"title": "t", "room_name": "r", "details": [{"id": 1, "ques": "问题返点", "type": "Text"}]}),
        &["r", "t", "问题返点"],
    );
    forwarded(
        "ChatRecordTodo",
        json!({"title": "待办", "content": "打返点"}),
        &["待办", "打返点"],
    );
    forwarded(
        "ChatRecordSphfeed",
        json!({"sph_name": "号", "feed_desc": "返点"}),
        &["号", "返点"],
    );
    forwarded(
        "ChatRecordRedpacket",
        json!({"wish": "返点", "totalamount": 3}),
        &["返点"],
    );
    forwarded(
        "ChatRecordDoc",
        json!({"title": "返点表", "link_url": "https://example.com"}),
        &["返点表"],
    );
    forwarded(
        "ChatRecordHologram",
        json!({"summary": "返点", "sdkfileid": "c2Rr"}),
        &["返点"],
    );
    forwarded(
        "ChatRecordChatRecord",
        json!({"title": "更早", "item": [{"type": "ChatRecordText", "content": "{\"content\":\"返点\"}"}]}),
        &["更早", "返点"],
    );
}

#[test]
fn chat_record_gives_title_and_every_item() {
    let item = |kind: &str, content: Value| json!({"type": kind, "content": content.to_string(), "msgtime": 1_760_000_000, "from_chatroom": false});
    let mixed = json!({"item": [
        item("text", json!({"content": "混合里的文字"})),
        item("image", json!({"sdkfileid": "c2Rr"})),
        item("ChatRecordLink", json!({"title": "混合里的链接", "link_url": "u"})),
    ]});
    let inner = json!({"title": "更早的记录", "item": [item("ChatRecordText", json!({"content": "最里面"}))]});
    check(
        "chatrecord",
        json!({"chatrecord": {"title": "群聊的聊天记录", "item": [
            item("ChatRecordText", json!({"content": "第一句"})),
            item("text", json!({"content": "第二句"})),
            {"type": "ChatRecordText", "content": "没有包装"},
            {"type": "ChatRecordText", "content": "12"},
            {"type": "ChatRecordImage", "content": "not json"},
            item("ChatRecordImage", json!({"sdkfileid": "c2Rr"})),
            item("ChatRecordLink", json!({"title": "标题", "description": "描述", "link_url": "u"})),
            item("ChatRecordFile", json!({"filename": "表.xls", "sdkfileid": "c2Rr"})),
            item("ChatRecordLocation", json!({"title": "门店", "address": "路"})),
            item("ChatRecordMixed", mixed),
            item("ChatRecordVideo", json!({"filename": "v.mp4", "title": 5})),
            item("chatrecord", inner),
            {"type": "ChatRecordText", "content": {"content": "已是对象"}},
        ]}}),
        &[
            "群聊的聊天记录",
            "第一句",
            "第二句",
            "没有包装",
            "12",
            "标题",
            "描述",
            "表.xls",
            "门店",
            "路",
            "混合里的文字",
            "混合里的链接",
            "v.mp4",
            "更早的记录",
            "最里面",
            "已是对象",
        ],
    );
}

#[test]
fn mixed_message_gives_each_item_by_its_type() {
    let item = |kind: &str, content: Value| json!({"type": kind, "content": content.to_string()});
    check(
        "mixed",
        json!({"mixed": {"item": [
            item("text", json!({"content": "看图[微笑]"})),
            item("image", json!({"sdkfileid": "c2Rr", "filename": "不算.png"})),
            item("link", json!({"title": "链接", "description": "说明"})),
            {"type": "file", "content": {"filename": "附件.docx"}},
            item("location", json!({"title": "门店", "address": "路"})),
            item("unknown", json!({"content": "不认识"})),
            {"type": "text", "content": "裸文本"},
        ]}}),
        &[
            "看图[微笑]",
            "链接",
            "说明",
            "附件.docx",
            "门店",
            "路",
            "不认识",
            "裸文本",
        ],
    );
}

#[test]
fn switch_log_belongs_to_the_conversation_of_its_user() {
    let log = json!({"msgid": "inner", "action": "switch", "time": 1_760_000_000_001_i64, "user": "liwei"});
    let got = decoded(&log);
    assert_eq!(
        (got.msgtype.as_str(), got.action.as_str()),
        ("switch", "switch")
    );
    assert_eq!(
        (got.from_id.as_str(), got.conversation_id.as_str()),
        ("liwei", "liwei")
    );
    assert_eq!(got.conversation_kind.as_str(), "single_internal");
    assert_eq!(got.msgtime, 1_760_000_000_001);
    assert!(got.to_ids.is_empty() && got.content.is_empty() && got.room_id.is_empty());
}

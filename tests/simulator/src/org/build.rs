//! Generates a tenant's people from its seed; `places` generates the rooms.

use std::collections::{BTreeSet, HashMap};

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::names::{DEPARTMENTS, GIVEN, SURNAMES, titles};
use super::{
    Category, Conversation, Customer, Department, Follow, Member, Org, Party, PartyId, PartyKind,
    Robot, Talk, departments_above,
};
use crate::options::TenantOptions;
use crate::random::{Purpose, generator, mix, once_in, pick};
use crate::texts::Texts;

pub(super) const DAY: i64 = 86_400;

/// The state shared by the generators of an organisation.
pub(super) struct Builder<'a> {
    pub(super) rng: ChaCha8Rng,
    pub(super) texts: &'a Texts,
    pub(super) now: i64,
    pub(super) departments: Vec<Department>,
    pub(super) parties: Vec<Party>,
    pub(super) talk: Talk,
}

pub(super) fn org(options: &TenantOptions, texts: &Texts) -> Org {
    let mut builder = Builder {
        rng: generator(options.seed, Purpose::Organisation, 0),
        texts,
        now: options.until_ms() / 1_000,
        departments: DEPARTMENTS.to_vec(),
        parties: Vec::new(),
        talk: Talk::default(),
    };
    let members = builder.members(options.members);
    let gone = builder.gone();
    let first_customer = builder.parties.len() as PartyId;
    let customers = builder.customers(options.members * 5);
    let follows = builder.follows(&members, &customers, first_customer);
    let first_stranger = builder.parties.len() as PartyId;
    builder.strangers();
    let robots = builder.robots(&members);
    builder.external_singles(&members, &follows, first_customer);
    builder.internal_singles(&members, gone);
    let rooms = builder.rooms(
        &members,
        &follows,
        first_customer,
        customers.len(),
        first_stranger,
    );
    Org {
        departments: builder.departments,
        members,
        customers,
        first_customer,
        follows,
        rooms,
        robots,
        parties: builder.parties,
        talk: builder.talk,
    }
}

/// Returns how many customers are followed; the others appear in customer groups only.
pub(super) fn followed(customers: usize) -> usize {
    customers * 9 / 10
}

impl Builder<'_> {
    /// Returns an id in WeCom's form.
    pub(super) fn id(&mut self, prefix: &str) -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
        let mut id = String::from(prefix);
        while id.len() < 32 {
            id.push(char::from(*pick(&mut self.rng, ALPHABET)));
        }
        id
    }

    fn full_name(&mut self) -> (String, String) {
        let (surname, surname_pinyin) = *pick(&mut self.rng, SURNAMES);
        let (given, given_pinyin) = *pick(&mut self.rng, GIVEN);
        (
            format!("{surname}{given}"),
            format!("{surname_pinyin}{given_pinyin}"),
        )
    }

    fn entry(&mut self, pool: &str) -> String {
        let seed = self.rng.random();
        self.texts.from_pool(pool, seed)
    }

    fn members(&mut self, count: u32) -> Vec<Member> {
        let leaves: Vec<Department> = self
            .departments
            .iter()
            .filter(|d| d.parent > 1)
            .cloned()
            .collect();
        let mut taken: HashMap<String, u32> = HashMap::new();
        let mut led = BTreeSet::new();
        let mut members: Vec<Member> = Vec::with_capacity(count as usize);
        for n in 0..count as usize {
            let (name, pinyin) = self.full_name();
            let nth = taken.entry(pinyin.clone()).or_insert(0);
            *nth += 1;
            let mut id = if *nth == 1 {
                pinyin
            } else {
                format!("{pinyin}{nth:02}")
            };
            if once_in(&mut self.rng, 4) {
                id[..1].make_ascii_uppercase();
            }
            // The root has one member and every leaf department at least one; the others are random.
            let department = match n {
                0 => &self.departments[0],
                n if n <= leaves.len() => &leaves[n - 1],
                _ => pick(&mut self.rng, &leaves),
            };
            let (main, industry) = (department.id, department.industry);
            let leader = led.insert(main);
            let mut departments = vec![main];
            if once_in(&mut self.rng, 8) {
                let second = pick(&mut self.rng, &leaves).id;
                if second != main {
                    departments.push(second);
                }
            }
            let titles = titles(industry);
            let title = match (n, leader) {
                (0, _) => "总经理",
                (_, true) => titles[0],
                _ => pick(&mut self.rng, &titles[1..]),
            };
            // Leaders are active; some of the others are disabled, not activated or have left.
            let status = match self.rng.random_range(0..40) {
                _ if leader => 1,
                0 => 2,
                1 => 4,
                2 | 3 => 5,
                _ => 1,
            };
            let archived = status != 4 && (leader || !once_in(&mut self.rng, 12));
            self.parties.push(Party {
                id: id.clone(),
                kind: PartyKind::Member,
                name: name.clone(),
                called: name.clone(),
                department: main,
                departments_above: departments_above(&self.departments, &departments),
            });
            members.push(Member {
                id,
                name,
                title,
                departments,
                leader,
                status,
                archived,
            });
        }
        members
    }

    fn stranger(&mut self, id: String, kind: PartyKind, name: &str, called: String) {
        self.parties.push(Party {
            id,
            kind,
            name: name.to_owned(),
            called,
            department: 0,
            departments_above: BTreeSet::new(),
        });
    }

    /// Adds a former member whom the directory no longer lists.
    fn gone(&mut self) -> PartyId {
        let (name, pinyin) = self.full_name();
        self.stranger(format!("{pinyin}_2019"), PartyKind::Unknown, "", name);
        self.parties.len() as PartyId - 1
    }

    fn customer_name(&mut self) -> String {
        match self.rng.random_range(0..3) {
            0 => self.entry("nickname"),
            1 => self.full_name().0,
            _ => {
                let nickname = self.entry("nickname");
                let number: u32 = self.rng.random_range(1..1000);
                format!("{nickname}{number}")
            }
        }
    }

    fn customers(&mut self, count: u32) -> Vec<Customer> {
        (0..count)
            .map(|_| {
                let wecom = once_in(&mut self.rng, 8);
                let name = self.customer_name();
                let id = self.id(if wecom { "wo" } else { "wm" });
                self.stranger(id.clone(), PartyKind::Customer, &name, name.clone());
                let (agree_status, agreed_at) = match self.rng.random_range(0..20) {
                    0 => ("Disagree", self.now - self.rng.random_range(1..90) * DAY),
                    1..=7 => ("Default_Agree", 0),
                    _ => ("Agree", self.now - self.rng.random_range(1..400) * DAY),
                };
                let mut company = String::new();
                let mut position = String::new();
                if wecom {
                    company = self.entry("company_wo");
                    position = self.entry("customer_position");
                }
                Customer {
                    id,
                    name,
                    kind: if wecom { 2 } else { 1 },
                    company,
                    position,
                    agreed_at,
                    agree_status,
                }
            })
            .collect()
    }

    fn follows(
        &mut self,
        members: &[Member],
        customers: &[Customer],
        first: PartyId,
    ) -> Vec<Follow> {
        let sellers: Vec<u32> = (0..members.len() as u32)
            .filter(|&m| members[m as usize].status != 4)
            .collect();
        let mut follows = Vec::new();
        for customer in 0..followed(customers.len()) {
            let times = match self.rng.random_range(0..20) {
                0 => 3,
                1..=3 => 2,
                _ => 1,
            };
            let by: BTreeSet<u32> = (0..times).map(|_| *pick(&mut self.rng, &sellers)).collect();
            for member in by {
                let called = self.parties[first as usize + customer].called.clone();
                follows.push(self.follow(member, customer as u32, called));
            }
        }
        follows.sort_by_key(|follow| (follow.member, follow.customer));
        follows
    }

    fn follow(&mut self, member: u32, customer: u32, called: String) -> Follow {
        let tags: BTreeSet<(String, String)> = (0..self.rng.random_range(0..3u32))
            .map(|_| {
                let name = self.entry("tag_text");
                (format!("et{:030x}", text_hash(&name)), name)
            })
            .collect();
        let remark = match self.rng.random_range(0..3) {
            0 => String::new(),
            1 => called,
            _ => format!("{}-{}", self.entry("honorific"), self.entry("tag_text")),
        };
        let description = if once_in(&mut self.rng, 2) {
            self.entry("follow_description")
        } else {
            String::new()
        };
        let state = if once_in(&mut self.rng, 5) {
            format!("channel-{}", self.rng.random_range(1..20))
        } else {
            String::new()
        };
        let days = self.rng.random_range(6..700) * DAY;
        Follow {
            member,
            customer,
            remark,
            description,
            created_at: self.now - days - self.rng.random_range(0..DAY),
            add_way: *pick(&mut self.rng, &[1, 1, 2, 3, 4, 8, 9, 10, 16, 202]),
            state,
            tags: tags.into_iter().collect(),
        }
    }

    /// Adds participants of rooms that no API describes.
    fn strangers(&mut self) {
        for _ in 0..20 {
            let prefix = if once_in(&mut self.rng, 6) {
                "wo"
            } else {
                "wm"
            };
            let called = self.customer_name();
            let id = self.id(prefix);
            self.stranger(id, PartyKind::Customer, "", called);
        }
    }

    fn robots(&mut self, members: &[Member]) -> Vec<Robot> {
        ["告警机器人", "日报助手"]
            .into_iter()
            .map(|name| {
                let id = self.id("wb");
                self.stranger(id.clone(), PartyKind::Robot, "", name.to_owned());
                Robot {
                    id,
                    name: name.to_owned(),
                    creator: self.rng.random_range(0..members.len() as u32),
                }
            })
            .collect()
    }

    /// Returns a random weight with a power-law distribution: a few parties write most messages.
    pub(super) fn weight(&mut self) -> f64 {
        let chance: f64 = self.rng.random_range(0.02..1.0);
        chance.powf(-0.7)
    }

    fn external_singles(&mut self, members: &[Member], follows: &[Follow], first: PartyId) {
        let activity: Vec<f64> = members.iter().map(|_| self.weight()).collect();
        for follow in follows {
            let member = &members[follow.member as usize];
            if !member.archived {
                continue;
            }
            let weight = activity[follow.member as usize] * self.weight();
            self.talk.add(
                Conversation {
                    category: Category::ExternalSingle,
                    room: None,
                    members: vec![follow.member],
                    customers: vec![first + follow.customer],
                    ends_at: ends_at(member),
                },
                weight,
            );
        }
    }

    fn internal_singles(&mut self, members: &[Member], gone: PartyId) {
        let count = members.len() as u32;
        for (n, member) in (0..).zip(members).filter(|(_, m)| m.archived) {
            let near: Vec<u32> = (0..count)
                .filter(|&o| o != n && members[o as usize].departments[0] == member.departments[0])
                .collect();
            for _ in 0..3 {
                let other = if near.is_empty() || once_in(&mut self.rng, 3) {
                    (n + self.rng.random_range(1..count)) % count
                } else {
                    *pick(&mut self.rng, &near)
                };
                let with = &members[other as usize];
                if with.status == 4 {
                    continue;
                }
                let weight = self.weight();
                self.talk.add(
                    Conversation {
                        category: Category::InternalSingle,
                        room: None,
                        members: vec![n, other],
                        customers: Vec::new(),
                        ends_at: ends_at(member).min(ends_at(with)),
                    },
                    weight,
                );
            }
        }
        self.talk.add(
            Conversation {
                category: Category::InternalSingle,
                room: None,
                members: vec![0, gone],
                customers: Vec::new(),
                ends_at: 0.4,
            },
            3.0,
        );
    }
}

/// Returns the part of the backlog after which a member no longer writes.
fn ends_at(member: &Member) -> f64 {
    match member.status {
        2 => 0.6,
        5 => 0.45,
        _ => f64::INFINITY,
    }
}

fn text_hash(text: &str) -> u64 {
    text.bytes()
        .fold(7, |hash, byte| mix(hash ^ u64::from(byte)))
}

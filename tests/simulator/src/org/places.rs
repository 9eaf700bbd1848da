//! Generates a tenant's group chats.

use std::collections::BTreeSet;

use rand::RngExt;

use super::build::{Builder, DAY, followed};
use super::names::{CUSTOMER_ROOMS, INTERNAL_ROOMS, SURNAMES};
use super::{Category, Conversation, Follow, Member, PartyId, PartyKind, Room, RoomKind};
use crate::random::{once_in, pick};

impl Builder<'_> {
    pub(super) fn rooms(
        &mut self,
        members: &[Member],
        follows: &[Follow],
        first_customer: PartyId,
        customers: usize,
        first_stranger: PartyId,
    ) -> Vec<Room> {
        let mut rooms = Vec::new();
        self.customer_rooms(&mut rooms, members, follows, first_customer, customers);
        self.internal_rooms(&mut rooms, members);
        self.foreign_rooms(&mut rooms, members, first_stranger);
        rooms
    }

    fn add_room(
        &mut self,
        rooms: &mut Vec<Room>,
        kind: RoomKind,
        name: String,
        parties: Vec<PartyId>,
    ) {
        let (members, customers): (Vec<_>, Vec<_>) = parties
            .iter()
            .partition(|&&party| self.parties[party as usize].kind == PartyKind::Member);
        let weight = self.weight();
        self.talk.add(
            Conversation {
                category: match kind {
                    RoomKind::Customer => Category::CustomerRoom,
                    RoomKind::Internal => Category::InternalRoom,
                    RoomKind::Foreign => Category::ForeignRoom,
                },
                room: Some(rooms.len() as u32),
                members,
                customers,
                ends_at: f64::INFINITY,
            },
            weight,
        );
        let notice = if once_in(&mut self.rng, 4) {
            "请大家修改群昵称为“单位+姓名”".to_owned()
        } else {
            String::new()
        };
        rooms.push(Room {
            id: self.id("wr"),
            name,
            kind,
            parties,
            created_at: self.now - self.rng.random_range(6..900) * DAY,
            notice,
        });
    }

    /// Chooses `count` active members, the first of whom the archive covers.
    fn working(&mut self, members: &[Member], count: usize, first: Option<u32>) -> Vec<PartyId> {
        let pool: Vec<u32> = (0..members.len() as u32)
            .filter(|&m| members[m as usize].status == 1)
            .collect();
        let covered: Vec<u32> = pool
            .iter()
            .copied()
            .filter(|&m| members[m as usize].archived)
            .collect();
        let mut chosen = vec![first.unwrap_or_else(|| *pick(&mut self.rng, &covered))];
        for _ in 0..count * 4 {
            let next = *pick(&mut self.rng, &pool);
            if chosen.len() < count && !chosen.contains(&next) {
                chosen.push(next);
            }
        }
        chosen
    }

    fn customer_rooms(
        &mut self,
        rooms: &mut Vec<Room>,
        members: &[Member],
        follows: &[Follow],
        first: PartyId,
        customers: usize,
    ) {
        let groups = (members.len() / 4).max(4);
        let unfollowed = followed(customers)..customers;
        for n in 0..groups {
            let staff = self.rng.random_range(1..4);
            let mut parties = self.working(members, staff, None);
            let own: Vec<u32> = follows
                .iter()
                .filter(|f| f.member == parties[0])
                .map(|f| f.customer)
                .collect();
            // Every unfollowed customer is in a group; otherwise no API would return the name.
            let mut guests: BTreeSet<u32> = unfollowed
                .clone()
                .filter(|c| c % groups == n)
                .map(|c| c as u32)
                .collect();
            for _ in 0..self.rng.random_range(3..14) {
                let guest = if own.is_empty() || once_in(&mut self.rng, 3) {
                    self.rng.random_range(unfollowed.clone()) as u32
                } else {
                    *pick(&mut self.rng, &own)
                };
                guests.insert(guest);
            }
            parties.extend(guests.into_iter().map(|guest| first + guest));
            let surname = pick(&mut self.rng, SURNAMES).0;
            let name = pick(&mut self.rng, CUSTOMER_ROOMS).replace("{}", surname);
            self.add_room(rooms, RoomKind::Customer, name, parties);
        }
    }

    fn internal_rooms(&mut self, rooms: &mut Vec<Room>, members: &[Member]) {
        for department in self.departments.clone() {
            let mut staff: Vec<PartyId> = (0..members.len() as u32)
                .filter(|&m| {
                    let member = &members[m as usize];
                    member.status == 1 && member.departments.contains(&department.id)
                })
                .take(60)
                .collect();
            staff.sort_by_key(|&m| !members[m as usize].archived);
            if staff.len() >= 3 && members[staff[0] as usize].archived {
                self.add_room(
                    rooms,
                    RoomKind::Internal,
                    format!("{}工作群", department.name),
                    staff,
                );
            }
        }
        for n in 0..(members.len() / 8).max(4) {
            let size = self.rng.random_range(3..12);
            let parties = self.working(members, size, None);
            let name = INTERNAL_ROOMS[n % INTERNAL_ROOMS.len()].to_owned();
            self.add_room(rooms, RoomKind::Internal, name, parties);
        }
    }

    fn foreign_rooms(
        &mut self,
        rooms: &mut Vec<Room>,
        members: &[Member],
        first_stranger: PartyId,
    ) {
        for n in 0..4 {
            let mut parties: Vec<PartyId> =
                (0..5).map(|guest| first_stranger + n * 5 + guest).collect();
            let staff = self.working(members, 1 + n as usize % 2, None);
            parties.extend(staff);
            self.add_room(rooms, RoomKind::Foreign, String::new(), parties);
        }
    }
}

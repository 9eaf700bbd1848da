//! Bodies of internal messages: tasks, meetings, documents, notes of robots, calls.

use rand::RngExt;

use super::MessageBody;
use crate::media::MediaKind;
use crate::random::once_in;
use crate::render::MessageRenderer;

const HOUR: i64 = 3_600;

impl MessageRenderer<'_> {
    fn seconds(&self) -> i64 {
        self.msgtime / 1_000
    }

    fn speaker_name(&self) -> String {
        self.org.party(self.slot.speaker).called.clone()
    }

    pub(super) fn todo(&mut self) -> MessageBody {
        let title = format!("{}的待办", self.speaker_name());
        let content = self.entry("todo");
        let mut body = self.object();
        body.text("title", &title).text("content", &content);
        MessageBody::under("todo", body, vec![title, content])
    }

    pub(super) fn vote(&mut self) -> MessageBody {
        let title = self.entry("vote");
        let mut options: Vec<String> = (0..self.rng.random_range(2..5))
            .map(|_| self.entry("option"))
            .collect();
        options.dedup();
        let voteid = self.opaque();
        let mut body = self.object();
        body.text("votetitle", &title)
            .texts("voteitem", options.iter().map(String::as_str))
            .number("votetype", self.rng.random_range(101..103))
            .text("voteid", &voteid);
        let mut parts = vec![title];
        parts.extend(options);
        // Both forms occur in real archives: a nested object, and members at the top level.
        if once_in(&mut self.rng, 2) {
            MessageBody::under("vote", body, parts)
        } else {
            MessageBody {
                members: body,
                parts,
            }
        }
    }

    pub(super) fn collect(&mut self) -> MessageBody {
        let title = self.entry("collect");
        let room = self
            .conversation
            .room
            .map_or("", |room| &self.org.rooms[room as usize].name);
        let questions: Vec<String> = (0..self.rng.random_range(1..5))
            .map(|_| self.entry("question"))
            .collect();
        let details: Vec<String> = (1..)
            .zip(&questions)
            .map(|(id, question)| {
                let answer = ["Text", "Number", "Date", "Time"][self.rng.random_range(0..4)];
                let mut detail = self.object();
                detail
                    .number("id", id)
                    .text("ques", question)
                    .text("type", answer);
                detail.finish()
            })
            .collect();
        let mut body = self.object();
        body.text("room_name", room)
            .text("creator", &self.speaker_name())
            .text("create_time", "2026-01-05 09:30:00")
            .text("title", &title)
            .list("details", details);
        let mut parts = vec![room.to_owned(), title];
        parts.extend(questions);
        MessageBody::under("collect", body, parts)
    }

    pub(super) fn meeting(&mut self) -> MessageBody {
        let (topic, address) = (self.entry("meeting"), self.entry("room"));
        let remarks = if once_in(&mut self.rng, 2) {
            self.entry("remark")
        } else {
            String::new()
        };
        let start = self.seconds() + HOUR * self.rng.random_range(1..48);
        let mut body = self.object();
        body.text("topic", &topic)
            .number("starttime", start)
            .number("endtime", start + HOUR)
            .text("address", &address)
            .text("remarks", &remarks)
            .number("meetingid", self.dice());
        if once_in(&mut self.rng, 2) {
            body.number("meetingtype", 101);
        } else {
            body.number("meetingtype", 102)
                .number("status", self.rng.random_range(1..8));
        }
        MessageBody::under("meeting", body, vec![topic, address, remarks])
    }

    pub(super) fn meeting_notification(&mut self) -> MessageBody {
        let content = self.entry("notice");
        let mut body = self.object();
        body.number("meeting_id", self.dice())
            .number("notification_type", self.rng.random_range(1..4))
            .text("content", &content);
        MessageBody::under("info", body, vec![content])
    }

    pub(super) fn docmsg(&mut self) -> MessageBody {
        let title = self.entry("doc");
        let mut body = self.object();
        body.text("title", &title)
            .text("link_url", "https://doc.weixin.qq.com/sheet/e3_example")
            .text("doc_creator", &self.org.party(self.slot.speaker).id);
        MessageBody::under("doc", body, vec![title])
    }

    pub(super) fn markdown(&mut self) -> MessageBody {
        let content = self.entry("markdown");
        let key = if once_in(&mut self.rng, 4) {
            "markdown"
        } else {
            "info"
        };
        let mut body = self.object();
        body.text("content", &content);
        MessageBody::under(key, body, vec![content])
    }

    pub(super) fn news(&mut self) -> MessageBody {
        let mut parts = Vec::new();
        let mut items = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            let (title, description) = (self.entry("news_title"), self.entry("news_description"));
            let mut item = self.object();
            item.text("title", &title)
                .text("description", &description)
                .text("url", "https://www.example.com/news")
                .text("picurl", "https://www.example.com/news.png");
            items.push(item.finish());
            parts.extend([title, description]);
        }
        let mut body = self.object();
        if once_in(&mut self.rng, 4) {
            // The flat form used before May 2025.
            parts.truncate(2);
            body.text("title", &parts[0])
                .text("description", &parts[1])
                .text("url", "https://www.example.com/news");
        } else {
            body.list("item", items);
        }
        MessageBody::under("info", body, parts)
    }

    pub(super) fn calendar(&mut self) -> MessageBody {
        let (title, place) = (self.entry("meeting"), self.entry("room"));
        let creator = self.speaker_name();
        let remarks = if once_in(&mut self.rng, 2) {
            self.entry("remark")
        } else {
            String::new()
        };
        let attendees: Vec<String> = self
            .conversation
            .members
            .iter()
            .take(4)
            .map(|&member| self.org.party(member).called.clone())
            .collect();
        let start = self.seconds() + HOUR * self.rng.random_range(1..100);
        let mut body = self.object();
        body.text("title", &title)
            .text("creatorname", &creator)
            .texts("attendeename", attendees.iter().map(String::as_str))
            .number("starttime", start)
            .number("endtime", start + HOUR)
            .text("place", &place)
            .text("remarks", &remarks);
        let mut parts = vec![title, creator];
        parts.extend(attendees);
        parts.extend([place, remarks]);
        MessageBody::under("calendar", body, parts)
    }

    pub(super) fn meeting_voice_call(&mut self) -> MessageBody {
        let media = self.media(MediaKind::Voice, 20_000, 400_000);
        let end = self.seconds();
        let shown = self.rng.random_range(0..3);
        let mut parts = Vec::new();
        let mut documents = Vec::new();
        for _ in 0..shown {
            let filename = self.entry("file");
            let mut document = self.object();
            document
                .text("filename", &filename)
                .text("demooperator", &self.org.party(self.slot.speaker).id)
                .number("starttime", end - 900)
                .number("endtime", end - 300);
            documents.push(document.finish());
            parts.push(filename);
        }
        let mut body = self.object();
        body.number("endtime", end)
            .text("sdkfileid", &media.sdkfileid(self.seed))
            .list("demofiledata", documents)
            .list("sharescreendata", []);
        let voiceid = self.opaque();
        let mut members = self.object();
        members
            .text("voiceid", &voiceid)
            .json("meeting_voice_call", &body.finish());
        MessageBody { members, parts }
    }

    pub(super) fn voip_doc_share(&mut self) -> MessageBody {
        let (body, filename) = self.file_object();
        let voipid = self.opaque();
        let mut members = self.object();
        members
            .text("voipid", &voipid)
            .json("voip_doc_share", &body.finish());
        MessageBody {
            members,
            parts: vec![filename],
        }
    }

    pub(super) fn qydiskfile(&mut self) -> MessageBody {
        let filename = self.entry("file");
        let mut body = self.object();
        body.text("filename", &filename);
        MessageBody::under("info", body, vec![filename])
    }

    /// A type whose format is not documented: readers find its title, and nothing that is not text.
    pub(super) fn solitaire_note(&mut self) -> MessageBody {
        let title = self.entry("collect");
        let mut body = self.object();
        body.text("title", &title).texts("entries", ["1", "2"]);
        MessageBody::under("solitaire_note", body, vec![title])
    }
}

//! Bodies of everyday messages: texts, media, locations, links.

use base64::Engine;
use rand::RngExt;

use super::MessageBody;
use crate::kind::MessageKind;
use crate::media::{Media, MediaKind};
use crate::random::{once_in, pick};
use crate::render::{JsonObject, MessageRenderer, msgid};

impl MessageRenderer<'_> {
    pub(super) fn text(&mut self) -> MessageBody {
        let words = self.words();
        let mut body = self.object();
        body.text("content", &words);
        MessageBody::under("text", body, vec![words])
    }

    /// Returns a media file with a random size in a range; small sizes are more likely.
    pub(super) fn media(&mut self, kind: MediaKind, least: u64, most: u64) -> Media {
        let chance: f64 = self.rng.random_range(0.0..1.0);
        Media {
            kind,
            size: least + ((most - least) as f64 * chance.powi(4)) as u64,
            nonce: self.dice(),
        }
    }

    /// Adds `sdkfileid` and `md5sum`.
    pub(super) fn media_fields(&self, body: &mut JsonObject, media: Media) {
        body.text("sdkfileid", &media.sdkfileid(self.seed))
            .text("md5sum", &media.md5sum(self.seed));
    }

    pub(super) fn image_object(&mut self) -> JsonObject {
        let media = self.media(MediaKind::Image, 4_000, 900_000);
        let mut body = self.object();
        self.media_fields(&mut body, media);
        body.number("filesize", media.size);
        body
    }

    pub(super) fn image(&mut self) -> MessageBody {
        MessageBody::under("image", self.image_object(), Vec::new())
    }

    pub(super) fn voice(&mut self) -> MessageBody {
        let media = self.media(MediaKind::Voice, 1_200, 60_000);
        let mut body = self.object();
        self.media_fields(&mut body, media);
        body.number("voice_size", media.size)
            .number("play_length", media.size / 1_000);
        MessageBody::under("voice", body, Vec::new())
    }

    pub(super) fn video(&mut self) -> MessageBody {
        let media = self.media(MediaKind::Video, 100_000, 6_000_000);
        let mut body = self.object();
        self.media_fields(&mut body, media);
        body.number("filesize", media.size)
            .number("play_length", media.size / 90_000);
        MessageBody::under("video", body, Vec::new())
    }

    pub(super) fn emotion(&mut self) -> MessageBody {
        let (kind, number) = *pick(&mut self.rng, &[(MediaKind::Gif, 1), (MediaKind::Png, 2)]);
        let media = self.media(kind, 2_000, 40_000);
        let mut body = self.object();
        body.number("type", number)
            .number("width", 240)
            .number("height", 240);
        body.number("imagesize", media.size);
        self.media_fields(&mut body, media);
        MessageBody::under("emotion", body, Vec::new())
    }

    pub(super) fn file_object(&mut self) -> (JsonObject, String) {
        let media = self.media(MediaKind::File, 8_000, 4_000_000);
        let filename = self.entry("file");
        let mut body = self.object();
        body.text("filename", &filename);
        body.text("fileext", filename.rsplit('.').next().unwrap_or_default());
        body.number("filesize", media.size);
        self.media_fields(&mut body, media);
        (body, filename)
    }

    pub(super) fn file(&mut self) -> MessageBody {
        let (body, filename) = self.file_object();
        MessageBody::under("file", body, vec![filename])
    }

    pub(super) fn link_object(&mut self) -> (JsonObject, Vec<String>) {
        let title = self.entry("link_title");
        let description = if once_in(&mut self.rng, 4) {
            String::new()
        } else {
            self.entry("link_description")
        };
        let number: u32 = self.rng.random_range(1_000..9_999);
        let mut body = self.object();
        body.text("title", &title)
            .text("description", &description)
            .text("link_url", &format!("https://www.example.com/a/{number}"))
            .text("image_url", "https://www.example.com/cover.png");
        (body, vec![title, description])
    }

    pub(super) fn link(&mut self) -> MessageBody {
        let (body, parts) = self.link_object();
        MessageBody::under("link", body, parts)
    }

    pub(super) fn location_object(&mut self) -> (JsonObject, Vec<String>) {
        let (title, address) = (self.entry("place"), self.entry("address"));
        let longitude: f64 = self.rng.random_range(100.0..122.0);
        let latitude: f64 = self.rng.random_range(22.0..40.0);
        let mut body = self.object();
        body.number("longitude", format_args!("{longitude:.6}"))
            .number("latitude", format_args!("{latitude:.6}"))
            .text("address", &address)
            .text("title", &title)
            .number("zoom", 15);
        (body, vec![title, address])
    }

    pub(super) fn location(&mut self) -> MessageBody {
        let (body, parts) = self.location_object();
        MessageBody::under("location", body, parts)
    }

    pub(super) fn card(&mut self) -> MessageBody {
        let conversation = self.conversation;
        let userid = &self
            .org
            .party(*pick(&mut self.rng, &conversation.members))
            .id;
        let key = if once_in(&mut self.rng, 3) {
            "Userid"
        } else {
            "userid"
        };
        let mut body = self.object();
        body.text("corpname", "恒润集团").text(key, userid);
        MessageBody::under("card", body, vec!["恒润集团".to_owned(), userid.clone()])
    }

    pub(super) fn weapp(&mut self) -> MessageBody {
        let (title, displayname) = (self.entry("weapp_title"), self.entry("weapp_name"));
        let description = if once_in(&mut self.rng, 2) {
            self.entry("link_description")
        } else {
            String::new()
        };
        let mut body = self.object();
        body.text("title", &title)
            .text("description", &description)
            .text("username", "gh_2a6f1c0d9b3e@app")
            .text("displayname", &displayname);
        MessageBody::under("weapp", body, vec![title, description, displayname])
    }

    pub(super) fn sphfeed(&mut self) -> MessageBody {
        let (name, feed) = (self.entry("sph_name"), self.entry("sph"));
        let mut body = self.object();
        body.number("feed_type", *pick(&mut self.rng, &[2, 4, 9]))
            .text("sph_name", &name)
            .text("feed_desc", &feed);
        MessageBody::under("sphfeed", body, vec![name, feed])
    }

    /// Recalls the preceding message of the scene, or an unknown one if there is none.
    pub(super) fn revoke(&mut self) -> MessageBody {
        let external = self.conversation.category.external();
        let (index, near_ms) = match self.slot.previous {
            Some(previous) => (
                self.block.first + u64::from(previous),
                self.block.slots[previous as usize].at_ms,
            ),
            None => (self.index.wrapping_sub(1 << 40), self.slot.at_ms - 60_000),
        };
        let mut body = self.object();
        body.text("pre_msgid", &msgid(self.seed, index, external, near_ms));
        MessageBody::under("revoke", body, Vec::new())
    }

    pub(super) fn agree(&mut self) -> MessageBody {
        self.consent("agree", "agree_time")
    }

    pub(super) fn disagree(&mut self) -> MessageBody {
        let key = if once_in(&mut self.rng, 3) {
            "agree"
        } else {
            "disagree"
        };
        self.consent(key, "disagree_time")
    }

    fn consent(&mut self, key: &str, time: &str) -> MessageBody {
        let mut body = self.object();
        body.text("userid", &self.org.party(self.slot.speaker).id)
            .number(time, self.msgtime);
        MessageBody::under(key, body, Vec::new())
    }

    pub(super) fn redpacket(&mut self) -> MessageBody {
        let wish = self.entry("wish");
        let mut body = self.object();
        body.number("type", self.rng.random_range(1..3))
            .text("wish", &wish)
            .number("totalcnt", self.rng.random_range(1..20))
            .number("totalamount", self.rng.random_range(100..20_000));
        let own_key = self.slot.kind == MessageKind::ExternalRedpacket && once_in(&mut self.rng, 2);
        let key = if own_key {
            "external_redpacket"
        } else {
            "redpacket"
        };
        MessageBody::under(key, body, vec![wish])
    }

    pub(super) fn voiptext(&mut self) -> MessageBody {
        let mut body = self.object();
        body.number("callduration", self.rng.random_range(3..3_000))
            .number("invitetype", self.rng.random_range(1..5));
        MessageBody::under("info", body, Vec::new())
    }

    /// Returns an opaque id, as used for calls and votes.
    pub(super) fn opaque(&mut self) -> String {
        let dice = [self.dice().to_le_bytes(), self.dice().to_le_bytes()].concat();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(dice)
    }
}

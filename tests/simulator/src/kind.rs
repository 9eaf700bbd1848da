//! The message types of a tenant, and in which conversations each of them occurs.

use Audience::{Customer, Everybody, Internal, Log, Robot};

/// In which conversations a type occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// In any conversation, from any sender.
    Everybody,
    /// In conversations between members.
    Internal,
    /// From an external contact.
    Customer,
    /// From a robot, in an internal room.
    Robot,
    /// In no conversation.
    Log,
}

macro_rules! kinds {
    ($($name:ident $text:literal $weight:literal $audience:ident,)*) => {
        /// A message type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum MessageKind {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl MessageKind {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns its `msgtype`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Returns its weight among the types other than text.
            pub fn weight(self) -> u32 {
                match self { $(Self::$name => $weight,)* }
            }

            /// Returns in which conversations it occurs.
            pub fn audience(self) -> Audience {
                match self { $(Self::$name => $audience,)* }
            }
        }
    };
}

kinds! {
    Text "text" 0 Everybody,
    Image "image" 50 Everybody,
    Revoke "revoke" 6 Everybody,
    Agree "agree" 4 Customer,
    Disagree "disagree" 2 Customer,
    Voice "voice" 16 Everybody,
    Video "video" 8 Everybody,
    Card "card" 5 Everybody,
    Location "location" 6 Everybody,
    Emotion "emotion" 18 Everybody,
    File "file" 22 Everybody,
    Link "link" 18 Everybody,
    Weapp "weapp" 8 Everybody,
    Chatrecord "chatrecord" 7 Everybody,
    Todo "todo" 2 Internal,
    Vote "vote" 2 Internal,
    Collect "collect" 2 Internal,
    Redpacket "redpacket" 3 Internal,
    ExternalRedpacket "external_redpacket" 2 Customer,
    Meeting "meeting" 4 Internal,
    MeetingNotification "meeting_notification" 1 Internal,
    Docmsg "docmsg" 5 Internal,
    Markdown "markdown" 5 Robot,
    News "news" 3 Robot,
    Calendar "calendar" 3 Internal,
    Mixed "mixed" 9 Everybody,
    MeetingVoiceCall "meeting_voice_call" 1 Internal,
    VoipDocShare "voip_doc_share" 1 Internal,
    Sphfeed "sphfeed" 3 Everybody,
    Voiptext "voiptext" 4 Everybody,
    Qydiskfile "qydiskfile" 2 Internal,
    SolitaireNote "solitaire_note" 1 Internal,
    Switch "switch" 1 Log,
}

impl MessageKind {
    /// Chooses a type other than text for these audiences; `dice` selects by weight.
    pub fn choose(audiences: &[Audience], dice: u64) -> Self {
        let fit = || {
            Self::ALL
                .iter()
                .filter(|kind| audiences.contains(&kind.audience()))
        };
        let total: u32 = fit().map(|kind| kind.weight()).sum();
        let mut left = (dice % u64::from(total.max(1))) as u32;
        for &kind in fit() {
            if left < kind.weight() {
                return kind;
            }
            left -= kind.weight();
        }
        Self::Image
    }
}

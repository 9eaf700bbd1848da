//! Takes directory snapshots: departments, members, customers, internal and customer rooms, consents.
//!
//! Guarantees:
//! - The rows are those that the APIs returned during one sync, sorted by key.
//! - The sync fails if departments or members are refused. Other data that a secret may not read is
//!   omitted and reported by [`DirectoryClient::skipped`]. Parts of which rows may be missing are listed in the snapshot.
//! - Each API is called with the secret that it belongs to.
//! - A single invalid item never fails a sync. A transient error that outlasts its retries always
//!   does, so that no row counts as deleted because a call failed.
//! - At most [`CONCURRENT_CALLS`] calls run at once.
//!
//! Not here: merging with earlier snapshots, the clock.

mod members;
mod rooms;
mod session;
mod snapshot_builder;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chatledger_schemas::directory::{Room, Snapshot, SnapshotPart};
use chatledger_schemas::{CorpId, Secret};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value, json};

use self::rooms::{LookupFailure, QueryReason};
use self::session::{ApiAnswer, Clients, SyncSession};
use self::snapshot_builder::SnapshotBuilder;
use crate::call::{ApiClient, ApiRequest};
use crate::lenient::Items;
use crate::{Api, Error, OnCall};

/// Maximum concurrent calls.
const CONCURRENT_CALLS: usize = 4;
/// Maximum members in a request for customers or rooms.
const USERS_PER_CALL: usize = 100;
/// Maximum pairs in a request for consents.
const PAIRS_PER_CALL: usize = 100;
const CUSTOMERS_PER_PAGE: u32 = 100;
const ROOMS_PER_PAGE: u32 = 1000;

/// Options of [`DirectoryClient::new`].
pub struct DirectoryOptions {
    /// The corp.
    pub corp_id: CorpId,
    /// Base URL; `/cgi-bin/…` is appended to it.
    pub base_url: String,
    /// Secret of the application that may read contacts and customers.
    pub secret: Secret,
    /// Secret of the archive, for the APIs about archiving (`msgaudit/*`).
    pub archive_secret: Secret,
    /// Timeout of one HTTP exchange, from connecting to the last byte.
    pub timeout: Duration,
    /// Called after every API call.
    pub on_call: OnCall,
}

/// Client for one corp's directory. Create one for each corp and keep it: it holds the access token,
/// the rate limits and the times of the last room queries.
pub struct DirectoryClient {
    contacts: ApiClient,
    archive: ApiClient,
    corp_id: CorpId,
    last_queried: Mutex<rooms::LastQueried>,
    skipped: Mutex<BTreeMap<Api, i64>>,
}

/// An API whose data is missing or incomplete in the last snapshot because permission was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkippedApi {
    /// The API.
    pub api: Api,
    /// The errcode; 0 if the API returned an HTTP status.
    pub errcode: i64,
}

impl DirectoryClient {
    /// Creates the client without calling an API.
    pub fn new(options: DirectoryOptions) -> Result<Self, Error> {
        let client = |secret: Secret| {
            ApiClient::new(
                options.corp_id.clone(),
                &options.base_url,
                secret,
                options.timeout,
                options.on_call.clone(),
            )
        };
        Ok(Self {
            contacts: client(options.secret.clone())?,
            archive: client(options.archive_secret.clone())?,
            corp_id: options.corp_id,
            last_queried: Mutex::default(),
            skipped: Mutex::default(),
        })
    }

    fn clients(&self) -> Clients<'_> {
        Clients {
            archive: &self.archive,
            contacts: &self.contacts,
        }
    }

    /// Asks one API with each secret: the departments, and the members whose conversations are archived. `check` calls it.
    ///
    /// # Errors
    /// The first one: the directory cannot be read with one of the secrets.
    pub async fn probe(&self) -> Result<(), Error> {
        let session = SyncSession::new(self.clients());
        let request = ApiRequest::Get(Vec::new());
        let _: wire::Departments = session.request(Api::Departments, request).await?;
        let request = ApiRequest::Post(json!({}));
        let _: wire::PermitUsers = session.request(Api::PermitUsers, request).await?;
        Ok(())
    }

    /// Returns the APIs that denied something in the last sync. Rows of these APIs may exist although
    /// the snapshot does not have them.
    pub fn skipped(&self) -> Vec<SkippedApi> {
        let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        skipped
            .iter()
            .map(|(&api, &errcode)| SkippedApi { api, errcode })
            .collect()
    }

    /// Takes a snapshot. `wanted_rooms` are room ids that messages name, `known_rooms` the rooms of the
    /// previous snapshot, and `now_ms` is the current time in milliseconds since the epoch.
    pub async fn sync(
        &self,
        wanted_rooms: &[String],
        known_rooms: &[Room],
        now_ms: i64,
    ) -> Result<Snapshot, Error> {
        let session = SyncSession::new(self.clients());
        let mut builder = SnapshotBuilder::default();
        members::departments_and_members(&session, &mut builder).await?;

        let request = ApiRequest::Post(json!({}));
        let permitted: ApiAnswer<wire::PermitUsers> =
            session.request_optional(Api::PermitUsers, request).await?;
        match permitted.value() {
            Some(answer) => builder.archived(answer.ids),
            None => builder.incomplete(SnapshotPart::Archived),
        }

        let request = ApiRequest::Get(Vec::new());
        let followers: ApiAnswer<wire::FollowUsers> =
            session.request_optional(Api::FollowUsers, request).await?;
        let followers = followers
            .value()
            .map(|answer| answer.follow_user)
            .unwrap_or_default();
        // Nobody who may have customers: refused, or not visible to the application.
        if followers.odd > 0 || followers.items.is_empty() {
            builder.incomplete(SnapshotPart::Customers);
        }
        let followers = followers.items;
        customers(&session, &mut builder, &followers).await?;
        self.rooms(
            &session,
            &mut builder,
            &followers,
            (wanted_rooms, known_rooms),
            now_ms,
        )
        .await?;
        consents(&session, &mut builder).await?;

        let incomplete = session.incomplete_apis();
        if incomplete.contains_key(&Api::Members) {
            builder.incomplete(SnapshotPart::Members);
        }
        if incomplete.contains_key(&Api::Customers) {
            builder.incomplete(SnapshotPart::Customers);
        }
        self.report(incomplete, &mut builder);
        Ok(builder.finish(self.corp_id.clone(), now_ms))
    }

    /// Stores the APIs that denied something and logs a warning for each new one, and for what makes the snapshot useless.
    fn report(&self, incomplete_apis: BTreeMap<Api, i64>, builder: &mut SnapshotBuilder) {
        let corp = &self.corp_id;
        let (departments, members) = builder.counts();
        if departments == 0 {
            builder.incomplete(SnapshotPart::Departments);
        }
        if members == 0 {
            builder.incomplete(SnapshotPart::Members);
        }
        if departments == 0 || members == 0 {
            tracing::warn!(
                %corp, departments, members,
                "the application sees no department or no member: names stay empty and rules for departments match nobody. \
                 Set its visible range in the admin console to the whole company"
            );
        }
        if builder.odd() > 0 {
            let items = builder.odd();
            tracing::warn!(%corp, items, "items of the directory cannot be read; each is left out, and not taken for gone");
        }
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        for (api, errcode) in &incomplete_apis {
            if skipped.get(api) != Some(errcode) {
                tracing::warn!(
                    %api, errcode,
                    "no permission for a directory API; its data is omitted from the snapshot"
                );
            }
        }
        *skipped = incomplete_apis;
    }

    async fn rooms(
        &self,
        session: &SyncSession<'_>,
        builder: &mut SnapshotBuilder,
        followers: &[String],
        (wanted, known): (&[String], &[Room]),
        now_ms: i64,
    ) -> Result<(), Error> {
        let listed = listed_rooms(session, followers).await?;
        let plan = {
            let mut last_queried = self
                .last_queried
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            rooms::plan(listed, wanted, known, &mut last_queried, now_ms)
        };
        for room in plan.keep {
            builder.room(room);
        }
        let answers: Vec<(String, QueryReason, RoomLookup)> = stream::iter(plan.query)
            .map(|(id, reason)| async move {
                let lookup = resolve(session, &id, reason).await?;
                Ok::<_, Error>((id, reason, lookup))
            })
            .buffered(CONCURRENT_CALLS)
            .try_collect()
            .await?;
        let previous: BTreeMap<&str, &Room> = known
            .iter()
            .map(|room| (room.room_id.as_str(), room))
            .collect();
        let mut last_queried = self
            .last_queried
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (id, reason, lookup) in answers {
            match lookup {
                RoomLookup::Customer(room) => builder.customer_room(&id, room),
                RoomLookup::Internal(room) => builder.internal_room(&id, room),
                RoomLookup::Failed(failure) => {
                    let previous = previous.get(id.as_str()).copied();
                    if let Some(row) = rooms::row_after_failure(
                        &id,
                        reason,
                        failure,
                        previous,
                        &mut last_queried,
                        now_ms,
                    ) {
                        builder.room(row);
                    }
                    continue;
                }
            }
            last_queried.remove(&id);
        }
        Ok(())
    }
}

async fn customers(
    session: &SyncSession<'_>,
    builder: &mut SnapshotBuilder,
    followers: &[String],
) -> Result<(), Error> {
    let batches = followers.chunks(USERS_PER_CALL).map(<[String]>::to_vec);
    let answers: Vec<Items<wire::CustomerWithFollow>> = stream::iter(batches)
        .map(|batch| {
            session.bisect(Api::Customers, batch, |users| {
                let parameters = Map::from_iter([("userid_list".into(), json!(users))]);
                session.pages::<wire::Customers>(Api::Customers, parameters, CUSTOMERS_PER_PAGE)
            })
        })
        .buffered(CONCURRENT_CALLS)
        .try_collect()
        .await?;
    for rows in answers {
        builder.customers(rows);
    }
    Ok(())
}

/// Requests the ids of the customer groups: all at once or, if there are too many owners, by owner.
async fn listed_rooms(
    session: &SyncSession<'_>,
    followers: &[String],
) -> Result<Vec<String>, Error> {
    let list = |owners: Option<Vec<String>>| {
        let mut parameters: Map<String, Value> = Map::new();
        parameters.insert("status_filter".into(), json!(0));
        if let Some(owners) = owners {
            parameters.insert("owner_filter".into(), json!({ "userid_list": owners }));
        }
        session.pages::<wire::CustomerRooms>(Api::CustomerRooms, parameters, ROOMS_PER_PAGE)
    };
    let rooms = match list(None).await? {
        ApiAnswer::Value(rooms) => rooms,
        ApiAnswer::ApiDenied => Items::default(),
        ApiAnswer::NoSuchItem | ApiAnswer::ItemDenied => {
            let mut rooms = Items::default();
            for batch in followers.chunks(USERS_PER_CALL) {
                let listed = session
                    .bisect(Api::CustomerRooms, batch.to_vec(), |owners| {
                        list(Some(owners))
                    })
                    .await?;
                rooms.items.extend(listed.items);
            }
            rooms
        }
    };
    Ok(rooms.items.into_iter().map(|room| room.chat_id).collect())
}

/// The result of querying a room.
enum RoomLookup {
    Customer(wire::CustomerRoom),
    Internal(wire::InternalRoom),
    Failed(LookupFailure),
}

/// Queries the API that is more likely to know the room, then the other one.
async fn resolve(
    session: &SyncSession<'_>,
    id: &str,
    reason: QueryReason,
) -> Result<RoomLookup, Error> {
    let mut failure = LookupFailure::NotFound;
    let internal_first = reason == QueryReason::KnownInternal;
    for internal in [internal_first, !internal_first] {
        let lookup = if internal {
            let request = ApiRequest::Post(json!({ "roomid": id }));
            let answer = session.request_optional(Api::InternalRoom, request).await?;
            answer.map(RoomLookup::Internal)
        } else {
            let request = ApiRequest::Post(json!({ "chat_id": id, "need_name": 1 }));
            let answer = session.request_optional(Api::CustomerRoom, request).await?;
            match answer {
                ApiAnswer::Value(wire::CustomerRoomResponse { group_chat }) => group_chat
                    .map_or(ApiAnswer::ItemDenied, |room| {
                        ApiAnswer::Value(RoomLookup::Customer(room))
                    }),
                ApiAnswer::NoSuchItem => ApiAnswer::NoSuchItem,
                ApiAnswer::ItemDenied => ApiAnswer::ItemDenied,
                ApiAnswer::ApiDenied => ApiAnswer::ApiDenied,
            }
        };
        match lookup {
            ApiAnswer::Value(lookup) => return Ok(lookup),
            ApiAnswer::NoSuchItem => {}
            ApiAnswer::ItemDenied => failure = failure.max(LookupFailure::RoomDenied),
            ApiAnswer::ApiDenied => failure = failure.max(LookupFailure::ApiDenied),
        }
    }
    Ok(RoomLookup::Failed(failure))
}

async fn consents(session: &SyncSession<'_>, builder: &mut SnapshotBuilder) -> Result<(), Error> {
    let pairs = builder.follow_pairs();
    let batches = pairs
        .chunks(PAIRS_PER_CALL)
        .map(<[(String, String)]>::to_vec);
    let single: Vec<Items<wire::Consent>> = stream::iter(batches)
        .map(|batch| {
            session.bisect(Api::SingleConsent, batch, |pairs| {
                single_consents(session, pairs)
            })
        })
        .buffered(CONCURRENT_CALLS)
        .try_collect()
        .await?;
    for rows in single {
        builder.consents(None, rows);
    }
    let in_rooms: Vec<(String, Items<wire::Consent>)> = stream::iter(builder.customer_room_ids())
        .map(|room| async move {
            let request = ApiRequest::Post(json!({ "roomid": room }));
            let answer: ApiAnswer<wire::Consents> =
                session.request_optional(Api::RoomConsent, request).await?;
            let rows = answer
                .value()
                .map(|answer| answer.agreeinfo)
                .unwrap_or_default();
            Ok::<_, Error>((room, rows))
        })
        .buffered(CONCURRENT_CALLS)
        .try_collect()
        .await?;
    for (room, rows) in in_rooms {
        builder.consents(Some(&room), rows);
    }
    Ok(())
}

async fn single_consents(
    session: &SyncSession<'_>,
    pairs: Vec<(String, String)>,
) -> Result<ApiAnswer<Items<wire::Consent>>, Error> {
    let info: Vec<Value> = pairs
        .iter()
        .map(|(member, customer)| json!({ "userid": member, "exteranalopenid": customer }))
        .collect();
    let request = ApiRequest::Post(json!({ "info": info }));
    let answer = session
        .request_optional(Api::SingleConsent, request)
        .await?;
    Ok(answer.map(|consents: wire::Consents| consents.agreeinfo))
}

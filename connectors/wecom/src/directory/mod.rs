//! Snapshots of who is who: departments, members, customers, rooms of both kinds, consents.
//!
//! Guarantees: the rows are those the APIs gave during one sync, sorted by key; departments and
//! members are there or the sync fails; whatever else the secret may not read is left out, named
//! by [`DirectoryClient::skipped`], and the rest goes on; one odd item never fails a sync, a
//! passing fault that outlasts its retries always does, so that nobody is taken for gone because a
//! call failed. At most [`CONCURRENT_CALLS`] calls are under way. Deliberately not here: merging
//! with earlier snapshots, the clock.

mod draft;
mod rooms;
mod run;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chatledger_schemas::directory::{Room, Snapshot};
use chatledger_schemas::{CorpId, Secret};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value, json};

use self::draft::Draft;
use self::rooms::{Missing, Why};
use self::run::{Answer, Run};
use crate::call::{Ask, Caller};
use crate::{Api, Error, OnCall, errcode};

/// Calls under way at once.
const CONCURRENT_CALLS: usize = 4;
/// Most members a question about customers or owners may name.
const USERS_A_CALL: usize = 100;
/// Most pairs a question about consents may name.
const PAIRS_A_CALL: usize = 100;
const CUSTOMERS_A_PAGE: u32 = 100;
const ROOMS_A_PAGE: u32 = 1000;

/// How to reach one corp's directory.
pub struct DirectoryOptions {
    /// The corp.
    pub corp_id: CorpId,
    /// Base address; `/cgi-bin/…` is put behind it.
    pub base_url: String,
    /// Secret of the application that may read contacts and customers.
    pub secret: Secret,
    /// Longest time one exchange may take, from the connection to the last byte.
    pub timeout: Duration,
    /// Told of every call.
    pub on_call: OnCall,
}

/// One corp's directory. Make one for each corp and keep it: it holds the token and the budgets.
pub struct DirectoryClient {
    caller: Caller,
    corp_id: CorpId,
    asked: Mutex<rooms::Asked>,
    skipped: Mutex<BTreeMap<Api, i64>>,
}

/// An API of which the last sync had to leave out something, for lack of permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The API.
    pub api: Api,
    /// Its errcode; 0 if it was an HTTP status.
    pub errcode: i64,
}

impl DirectoryClient {
    /// Makes the client; calls nothing.
    pub fn new(options: DirectoryOptions) -> Result<Self, Error> {
        Ok(Self {
            caller: Caller::new(
                options.corp_id.clone(),
                &options.base_url,
                options.secret,
                options.timeout,
                options.on_call,
            )?,
            corp_id: options.corp_id,
            asked: Mutex::default(),
            skipped: Mutex::default(),
        })
    }

    /// What the last sync left out. Rows of these APIs that are missing from its snapshot may
    /// still exist.
    pub fn skipped(&self) -> Vec<Skipped> {
        let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        skipped
            .iter()
            .map(|(&api, &errcode)| Skipped { api, errcode })
            .collect()
    }

    /// Takes a snapshot. `wanted_rooms` are room ids seen in messages, `known_rooms` the rooms of
    /// the snapshot before, `now_ms` the time it is taken at.
    pub async fn sync(
        &self,
        wanted_rooms: &[String],
        known_rooms: &[Room],
        now_ms: i64,
    ) -> Result<Snapshot, Error> {
        let run = Run::new(&self.caller);
        let mut draft = Draft::default();
        departments_and_members(&run, &mut draft).await?;

        let ask = Ask::Post(json!({}));
        let permitted: Answer<wire::PermitUsers> = run.optional(Api::PermitUsers, ask).await?;
        draft.archived(&permitted.is().map(|answer| answer.ids).unwrap_or_default());

        let ask = Ask::Get(Vec::new());
        let followers: Answer<wire::FollowUsers> = run.optional(Api::FollowUsers, ask).await?;
        let followers = followers
            .is()
            .map(|answer| answer.follow_user)
            .unwrap_or_default();
        customers(&run, &mut draft, &followers).await?;
        self.rooms(
            &run,
            &mut draft,
            &followers,
            (wanted_rooms, known_rooms),
            now_ms,
        )
        .await?;
        consents(&run, &mut draft).await?;

        self.report(run.left_out());
        Ok(draft.finish(self.corp_id.clone(), now_ms))
    }

    /// Keeps what was left out, and says what was not left out before.
    fn report(&self, left_out: BTreeMap<Api, i64>) {
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        for (api, errcode) in &left_out {
            if skipped.get(api) != Some(errcode) {
                tracing::warn!(
                    %api, errcode,
                    "no permission for a directory API; what it would give is left out"
                );
            }
        }
        *skipped = left_out;
    }

    async fn rooms(
        &self,
        run: &Run<'_>,
        draft: &mut Draft,
        followers: &[String],
        (wanted, known): (&[String], &[Room]),
        now_ms: i64,
    ) -> Result<(), Error> {
        let listed = listed_rooms(run, followers).await?;
        let plan = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            rooms::plan(listed, wanted, known, &mut asked, now_ms)
        };
        for room in plan.keep {
            draft.room(room);
        }
        let answers: Vec<(String, Why, Found)> = stream::iter(plan.ask)
            .map(|(id, why)| async move {
                let found = resolve(run, &id, why).await?;
                Ok::<_, Error>((id, why, found))
            })
            .buffered(CONCURRENT_CALLS)
            .try_collect()
            .await?;
        let before: BTreeMap<&str, &Room> = known
            .iter()
            .map(|room| (room.room_id.as_str(), room))
            .collect();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, why, found) in answers {
            match found {
                Found::Customer(room) => draft.customer_room(&id, room),
                Found::Internal(room) => draft.internal_room(&id, room),
                Found::Not(missing) => {
                    let before = before.get(id.as_str()).copied();
                    if let Some(row) = rooms::missed(&id, why, missing, before, &mut asked, now_ms)
                    {
                        draft.room(row);
                    }
                    continue;
                }
            }
            asked.remove(&id);
        }
        Ok(())
    }
}

async fn departments_and_members(run: &Run<'_>, draft: &mut Draft) -> Result<(), Error> {
    let ask = Ask::Get(Vec::new());
    let departments: wire::Departments = run.ask(Api::Departments, ask).await?;
    draft.departments(departments.department);
    let shared: &Draft = draft;
    let answers: Vec<Vec<wire::Member>> = stream::iter(shared.roots())
        .map(|root| members_below(run, shared, root))
        .buffered(CONCURRENT_CALLS)
        .try_collect()
        .await?;
    for rows in answers {
        draft.members(rows);
    }
    Ok(())
}

/// The members of a department and all below it. If they may not be asked for at once, those of
/// each department that may be read, and there must be one.
async fn members_below(
    run: &Run<'_>,
    draft: &Draft,
    root: u32,
) -> Result<Vec<wire::Member>, Error> {
    let ask = |department: u32, fetch_child: &str| {
        Ask::Get(vec![
            ("department_id", department.to_string()),
            ("fetch_child", fetch_child.to_owned()),
        ])
    };
    let refusal = match run.ask::<wire::Members>(Api::Members, ask(root, "1")).await {
        Ok(answer) => return Ok(answer.userlist),
        Err(error) if is_denied(&error) => error,
        Err(error) => return Err(error),
    };
    let mut members = Vec::new();
    let mut one_answered = false;
    for department in draft.subtree(root) {
        match run
            .ask::<wire::Members>(Api::Members, ask(department, "0"))
            .await
        {
            Ok(answer) => {
                one_answered = true;
                members.extend(answer.userlist);
            }
            Err(error) if is_denied(&error) => run.leave_out(Api::Members, &error),
            Err(error) => return Err(error),
        }
    }
    if one_answered {
        Ok(members)
    } else {
        Err(refusal)
    }
}

fn is_denied(error: &Error) -> bool {
    error.is_about_item() || error.errcode() == Some(errcode::NO_PRIVILEGE)
}

async fn customers(run: &Run<'_>, draft: &mut Draft, followers: &[String]) -> Result<(), Error> {
    let batches = followers.chunks(USERS_A_CALL).map(<[String]>::to_vec);
    let answers: Vec<Vec<wire::Followed>> = stream::iter(batches)
        .map(|batch| {
            run.in_halves(batch, |users| {
                let question = Map::from_iter([("userid_list".into(), json!(users))]);
                run.pages::<wire::Customers>(Api::Customers, question, CUSTOMERS_A_PAGE)
            })
        })
        .buffered(CONCURRENT_CALLS)
        .try_collect()
        .await?;
    for rows in answers {
        draft.customers(rows);
    }
    Ok(())
}

/// Ids of the customer groups: all at once or, where there are too many owners, by owner.
async fn listed_rooms(run: &Run<'_>, followers: &[String]) -> Result<Vec<String>, Error> {
    let list = |owners: Option<Vec<String>>| {
        let mut question: Map<String, Value> = Map::new();
        question.insert("status_filter".into(), json!(0));
        if let Some(owners) = owners {
            question.insert("owner_filter".into(), json!({ "userid_list": owners }));
        }
        run.pages::<wire::CustomerRooms>(Api::CustomerRooms, question, ROOMS_A_PAGE)
    };
    let mut rooms = match list(None).await? {
        Answer::Is(rooms) => rooms,
        Answer::Closed => Vec::new(),
        Answer::NoSuchItem | Answer::Denied => {
            let mut rooms = Vec::new();
            for batch in followers.chunks(USERS_A_CALL) {
                rooms.extend(
                    run.in_halves(batch.to_vec(), |owners| list(Some(owners)))
                        .await?,
                );
            }
            rooms
        }
    };
    Ok(rooms.drain(..).map(|room| room.chat_id).collect())
}

enum Found {
    Customer(wire::CustomerRoom),
    Internal(wire::InternalRoom),
    Not(Missing),
}

/// Asks the API that most likely knows the room, then the other one.
async fn resolve(run: &Run<'_>, id: &str, why: Why) -> Result<Found, Error> {
    let mut missing = Missing::Nobody;
    let internal_first = why == Why::WasInternal;
    for internal in [internal_first, !internal_first] {
        let found = if internal {
            let ask = Ask::Post(json!({ "roomid": id }));
            let answer = run.optional(Api::InternalRoom, ask).await?;
            map(answer, Found::Internal)
        } else {
            let ask = Ask::Post(json!({ "chat_id": id, "need_name": 1 }));
            let answer = run.optional(Api::CustomerRoom, ask).await?;
            map(answer, |room: wire::CustomerRoomAnswer| {
                Found::Customer(room.group_chat)
            })
        };
        match found {
            Answer::Is(found) => return Ok(found),
            Answer::NoSuchItem => {}
            Answer::Denied => missing = missing.max(Missing::Denied),
            Answer::Closed => missing = missing.max(Missing::Unanswered),
        }
    }
    Ok(Found::Not(missing))
}

fn map<T, U>(answer: Answer<T>, change: impl FnOnce(T) -> U) -> Answer<U> {
    match answer {
        Answer::Is(value) => Answer::Is(change(value)),
        Answer::NoSuchItem => Answer::NoSuchItem,
        Answer::Denied => Answer::Denied,
        Answer::Closed => Answer::Closed,
    }
}

async fn consents(run: &Run<'_>, draft: &mut Draft) -> Result<(), Error> {
    let pairs = draft.follow_pairs();
    let batches = pairs.chunks(PAIRS_A_CALL).map(<[(String, String)]>::to_vec);
    let single: Vec<Vec<wire::Consent>> = stream::iter(batches)
        .map(|batch| run.in_halves(batch, |pairs| single_consents(run, pairs)))
        .buffered(CONCURRENT_CALLS)
        .try_collect()
        .await?;
    for rows in single {
        draft.consents(None, rows);
    }
    let in_rooms: Vec<(String, Vec<wire::Consent>)> = stream::iter(draft.customer_room_ids())
        .map(|room| async move {
            let ask = Ask::Post(json!({ "roomid": room }));
            let answer: Answer<wire::Consents> = run.optional(Api::RoomConsent, ask).await?;
            let rows = answer
                .is()
                .map(|answer| answer.agreeinfo)
                .unwrap_or_default();
            Ok::<_, Error>((room, rows))
        })
        .buffered(CONCURRENT_CALLS)
        .try_collect()
        .await?;
    for (room, rows) in in_rooms {
        draft.consents(Some(&room), rows);
    }
    Ok(())
}

async fn single_consents(
    run: &Run<'_>,
    pairs: Vec<(String, String)>,
) -> Result<Answer<Vec<wire::Consent>>, Error> {
    let info: Vec<Value> = pairs
        .iter()
        .map(|(member, customer)| json!({ "userid": member, "exteranalopenid": customer }))
        .collect();
    let ask = Ask::Post(json!({ "info": info }));
    let answer = run.optional(Api::SingleConsent, ask).await?;
    Ok(map(answer, |consents: wire::Consents| consents.agreeinfo))
}

//! Requests departments and their members.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::session::SyncSession;
use super::snapshot_builder::SnapshotBuilder;
use super::{CONCURRENT_CALLS, wire};
use crate::call::ApiRequest;
use crate::lenient::Items;
use crate::{Api, Error, errcode};

/// Requests all departments that the secret may see, and their members.
pub(super) async fn departments_and_members(
    session: &SyncSession<'_>,
    builder: &mut SnapshotBuilder,
) -> Result<(), Error> {
    let request = ApiRequest::Get(Vec::new());
    let departments: wire::Departments = session.request(Api::Departments, request).await?;
    builder.departments(departments.department);
    let built: &SnapshotBuilder = builder;
    let answers: Vec<Items<wire::Member>> = stream::iter(built.roots())
        .map(|root| members_below(session, built, root))
        .buffered(CONCURRENT_CALLS)
        .try_collect()
        .await?;
    for rows in answers {
        builder.members(rows);
    }
    Ok(())
}

/// Requests the members of a department and its descendants. If one request for all is denied, or its answer has nobody
/// from a descendant (a server may ignore `fetch_child`), requests each department and fails if all of them are denied.
async fn members_below(
    session: &SyncSession<'_>,
    builder: &SnapshotBuilder,
    root: u32,
) -> Result<Items<wire::Member>, Error> {
    let subtree = builder.subtree(root);
    let request = |department: u32, fetch_child: &str| {
        ApiRequest::Get(vec![
            ("department_id", department.to_string()),
            ("fetch_child", fetch_child.to_owned()),
        ])
    };
    let whole = session
        .request::<wire::Members>(Api::Members, request(root, "1"))
        .await;
    let (mut members, denial) = match whole {
        Ok(answer) => {
            // Somebody who is only in a descendant proves that these were read.
            let is_below = |row: &wire::Member| {
                let below = |department: &u32| subtree.contains(department);
                !row.department.contains(&root) && row.department.iter().any(below)
            };
            if subtree.len() == 1 || answer.userlist.items.iter().any(is_below) {
                return Ok(answer.userlist);
            }
            (answer.userlist, None)
        }
        Err(error) if is_denied(&error) => (Items::default(), Some(error)),
        Err(error) => return Err(error),
    };
    let mut any_succeeded = false;
    for department in subtree
        .into_iter()
        .filter(|id| denial.is_some() || *id != root)
    {
        match session
            .request::<wire::Members>(Api::Members, request(department, "0"))
            .await
        {
            Ok(answer) => {
                any_succeeded = true;
                members.items.extend(answer.userlist.items);
                members.odd += answer.userlist.odd;
            }
            Err(error) if is_denied(&error) => session.mark_incomplete(Api::Members, &error),
            Err(error) => return Err(error),
        }
    }
    match denial {
        Some(denial) if !any_succeeded => Err(denial),
        _ => Ok(members),
    }
}

fn is_denied(error: &Error) -> bool {
    error.is_about_item() || error.errcode() == Some(errcode::NO_PRIVILEGE)
}

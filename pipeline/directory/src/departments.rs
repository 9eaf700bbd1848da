//! The department tree: ancestors and paths.
//!
//! Terminates for any input: missing parents, cycles, and chains of any length. Members of
//! departments are not handled here.

use std::collections::HashMap;

use chatledger_schemas::directory::Department;

/// Maximum number of levels that are followed upwards. WeCom allows 15.
const MAX_LEVELS: usize = 64;

/// Departments by id.
#[derive(Debug, Default)]
pub(crate) struct Departments {
    nodes: HashMap<u32, DepartmentNode>,
}

#[derive(Debug)]
struct DepartmentNode {
    parent_id: u32,
    /// Names from the root down, joined with `/`.
    path: String,
}

impl Departments {
    pub(crate) fn new(departments: &[Department]) -> Self {
        let by_id: HashMap<u32, &Department> = departments
            .iter()
            .map(|department| (department.department_id, department))
            .collect();
        let parent_of = |id| by_id.get(&id).map(|department| department.parent_id);
        let path = |id| {
            let ids = ancestors_and_self(id, parent_of);
            let known = ids.iter().rev().filter_map(|id| by_id.get(id));
            let known: Vec<&str> = known.map(|department| department.name.as_str()).collect();
            known.join("/")
        };
        let node = |(&id, department): (&u32, &&Department)| {
            let node = DepartmentNode {
                parent_id: department.parent_id,
                path: path(id),
            };
            (id, node)
        };
        Self {
            nodes: by_id.iter().map(node).collect(),
        }
    }

    /// Returns the names from the root department down, joined with `/`; if an ancestor is missing,
    /// from the topmost known department down. Empty if the department is unknown.
    pub(crate) fn path(&self, id: u32) -> &str {
        self.nodes.get(&id).map_or("", |node| node.path.as_str())
    }

    /// Returns these departments and all their ancestors, sorted. Unknown departments are included,
    /// because a rule may be scoped to a department that the sync is not allowed to read.
    pub(crate) fn with_ancestors(&self, ids: &[u32]) -> Vec<u32> {
        let parent_of = |id| self.nodes.get(&id).map(|node| node.parent_id);
        let mut all: Vec<u32> = ids
            .iter()
            .flat_map(|&id| ancestors_and_self(id, parent_of))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Returns the department and its ancestors, the root last, without repetitions.
fn ancestors_and_self(id: u32, parent_of: impl Fn(u32) -> Option<u32>) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut next = Some(id);
    while let Some(id) = next {
        if id == 0 || ids.len() == MAX_LEVELS || ids.contains(&id) {
            break;
        }
        ids.push(id);
        next = parent_of(id);
    }
    ids
}

/// Sorts `rows` so that a department comes after all its ancestors; `all` defines the tree.
pub(crate) fn parents_first(mut rows: Vec<Department>, all: &[Department]) -> Vec<Department> {
    let parents: HashMap<u32, u32> = all
        .iter()
        .map(|department| (department.department_id, department.parent_id))
        .collect();
    rows.sort_by_cached_key(|row| {
        let levels = ancestors_and_self(row.department_id, |id| parents.get(&id).copied()).len();
        (levels, row.department_id)
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn department((id, parent, name): (u32, u32, &str)) -> Department {
        Department {
            department_id: id,
            parent_id: parent,
            name: name.to_owned(),
            active: true,
        }
    }

    fn departments(rows: &[(u32, u32, &str)]) -> Vec<Department> {
        rows.iter().copied().map(department).collect()
    }

    #[test]
    fn paths_run_from_the_root_down() {
        let tree = Departments::new(&departments(&[
            (3, 2, "上海"),
            (1, 0, "总公司"),
            (2, 1, "华东"),
        ]));
        assert_eq!(tree.path(3), "总公司/华东/上海");
        assert_eq!(tree.path(1), "总公司");
        assert_eq!(tree.path(9), "");
        assert_eq!(tree.path(0), "");
        assert_eq!(tree.with_ancestors(&[3, 1]), [1, 2, 3]);
        assert!(tree.with_ancestors(&[]).is_empty());
        assert_eq!(tree.with_ancestors(&[0, 9]), [9]);
    }

    #[test]
    fn paths_stop_at_missing_parents_and_cycles() {
        let tree = Departments::new(&departments(&[
            (5, 4, "孤儿"),
            (6, 7, "甲"),
            (7, 6, "乙"),
            (8, 8, "自己"),
        ]));
        assert_eq!(tree.path(5), "孤儿");
        assert_eq!(tree.with_ancestors(&[5]), [4, 5]);
        assert_eq!(tree.path(6), "乙/甲");
        assert_eq!(tree.with_ancestors(&[6]), [6, 7]);
        assert_eq!((tree.path(8), tree.with_ancestors(&[8])), ("自己", vec![8]));
    }

    #[test]
    fn long_chains_are_followed_up_to_the_maximum_level() {
        let chain: Vec<Department> = (1..10_000)
            .map(|id| department((id, id - 1, "x")))
            .collect();
        let tree = Departments::new(&chain);
        assert_eq!(tree.path(64).len(), 64 * 2 - 1);
        assert_eq!(tree.with_ancestors(&[9_999]).len(), MAX_LEVELS);
    }

    #[test]
    fn parents_come_first_even_when_their_ids_are_larger() {
        let all = departments(&[(1, 3, "c"), (2, 0, "root"), (3, 2, "b"), (4, 2, "d")]);
        let ids = |rows: Vec<Department>| -> Vec<u32> {
            rows.into_iter().map(|row| row.department_id).collect()
        };
        assert_eq!(ids(parents_first(all.clone(), &all)), [2, 3, 4, 1]);
    }
}

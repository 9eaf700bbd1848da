//! Finding a row by its id, without keeping the id twice.
//!
//! Guarantees that an exact match is preferred to one that differs in ASCII case. Whether case may
//! differ is for the caller to say: it may for userids (`wecom-api` §5.1), it may not for ids that
//! WeCom made, whose letters carry information.

use std::hash::{BuildHasher, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Row numbers of a slice, by the id of the row. Which slice and which id is the caller's to
/// remember: lookups ask for them through `id_of`.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    hasher: DefaultHashBuilder,
    rows: HashTable<u32>,
}

impl Ids {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            rows: HashTable::with_capacity(rows),
        }
    }

    /// Remembers row `row`; gives the row with the same id instead, if there is one.
    pub(crate) fn insert<'a>(&mut self, row: u32, id_of: impl Fn(u32) -> &'a str) -> Option<u32> {
        let id = id_of(row);
        if let Some(earlier) = self.exact(id, &id_of) {
            return Some(earlier);
        }
        let rehash = |&row: &u32| hash(&self.hasher, id_of(row));
        self.rows.insert_unique(hash(&self.hasher, id), row, rehash);
        None
    }

    /// Puts `row` in the place of the row with the same id.
    pub(crate) fn replace<'a>(&mut self, row: u32, id_of: impl Fn(u32) -> &'a str) {
        let id = id_of(row);
        let hash = hash(&self.hasher, id);
        if let Some(place) = self.rows.find_mut(hash, |&other| id_of(other) == id) {
            *place = row;
        }
    }

    /// The row with this very id.
    pub(crate) fn exact<'a>(&self, id: &str, id_of: impl Fn(u32) -> &'a str) -> Option<u32> {
        let hash = hash(&self.hasher, id);
        self.rows.find(hash, |&row| id_of(row) == id).copied()
    }

    /// The row with this id; failing that, one whose id differs in ASCII case only.
    pub(crate) fn any_case<'a>(&self, id: &str, id_of: impl Fn(u32) -> &'a str) -> Option<u32> {
        let hash = hash(&self.hasher, id);
        let exact = self.rows.find(hash, |&row| id_of(row) == id);
        let found = exact.or_else(|| {
            self.rows
                .find(hash, |&row| id_of(row).eq_ignore_ascii_case(id))
        });
        found.copied()
    }
}

/// The same for ids that differ in ASCII case only.
fn hash(hasher: &DefaultHashBuilder, id: &str) -> u64 {
    let mut hasher = hasher.build_hasher();
    let mut folded = [0; 64];
    for chunk in id.as_bytes().chunks(folded.len()) {
        let folded = &mut folded[..chunk.len()];
        folded.copy_from_slice(chunk);
        folded.make_ascii_lowercase();
        hasher.write(folded);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_ids_come_before_those_of_another_case() {
        let long = "Q".repeat(150);
        let rows = ["ZhangSan", "zhangsan", "张三A", "", long.as_str()];
        let id_of = |row: u32| rows[row as usize];
        let mut ids = Ids::with_capacity(0);
        for row in 0..rows.len() as u32 {
            assert_eq!(ids.insert(row, id_of), None);
        }
        assert_eq!(ids.insert(1, id_of), Some(1));
        for (id, exact, any_case) in [
            ("ZhangSan", Some(0), Some(0)),
            ("zhangsan", Some(1), Some(1)),
            ("张三a", None, Some(2)),
            ("", Some(3), Some(3)),
            (long.to_lowercase().as_str(), None, Some(4)),
            ("zhangsan1", None, None),
        ] {
            assert_eq!(ids.exact(id, id_of), exact, "{id}");
            assert_eq!(ids.any_case(id, id_of), any_case, "{id}");
        }
        assert!(matches!(ids.any_case("ZHANGSAN", id_of), Some(0 | 1)));
    }
}

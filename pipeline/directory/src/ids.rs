//! Finds a row by its id without storing the id twice.
//!
//! Guarantees that an exact match is preferred to one that differs in ASCII case. The caller
//! decides whether case matters: it does not for userids (`connectors/wecom/WECOM.md` §5), it does
//! for ids that WeCom generates.

use std::hash::{BuildHasher, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Row numbers of a slice, by the id of the row. The index stores no ids: `id_of` returns the id of
/// a row number and must always refer to the same slice.
#[derive(Debug, Default)]
pub(crate) struct IdIndex {
    hasher: DefaultHashBuilder,
    rows: HashTable<u32>,
}

impl IdIndex {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            rows: HashTable::with_capacity(rows),
        }
    }

    /// Adds a row. If the index already has a row with the same id, returns that row and adds
    /// nothing.
    pub(crate) fn insert<'a>(&mut self, row: u32, id_of: impl Fn(u32) -> &'a str) -> Option<u32> {
        let id = id_of(row);
        if let Some(earlier) = self.exact(id, &id_of) {
            return Some(earlier);
        }
        let rehash = |&row: &u32| hash(&self.hasher, id_of(row));
        self.rows.insert_unique(hash(&self.hasher, id), row, rehash);
        None
    }

    /// Replaces the row with the same id by `row`.
    pub(crate) fn replace<'a>(&mut self, row: u32, id_of: impl Fn(u32) -> &'a str) {
        let id = id_of(row);
        let hash = hash(&self.hasher, id);
        if let Some(slot) = self.rows.find_mut(hash, |&other| id_of(other) == id) {
            *slot = row;
        }
    }

    /// Returns the row with exactly this id.
    pub(crate) fn exact<'a>(&self, id: &str, id_of: impl Fn(u32) -> &'a str) -> Option<u32> {
        let hash = hash(&self.hasher, id);
        self.rows.find(hash, |&row| id_of(row) == id).copied()
    }

    /// Returns the row with exactly this id, otherwise a row whose id differs in ASCII case only.
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

/// Returns the same hash for ids that differ in ASCII case only.
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
    fn exact_id_is_preferred_to_one_with_another_case() {
        let long = "Q".repeat(150);
        let rows = ["ZhangSan", "zhangsan", "张三A", "", long.as_str()];
        let id_of = |row: u32| rows[row as usize];
        let mut ids = IdIndex::with_capacity(0);
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

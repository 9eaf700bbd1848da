//! Rewrites the Native format for clients of a newer protocol.
//!
//! The engine writes Native as a server does for clients that send no revision. Clients that send
//! `client_protocol_version` (clickhouse-go and therefore Grafana's data source) expect a block info
//! before each block and, from revision 54454, a flag after each column's type. Guarantees: [`upgrade`]
//! adds exactly these and does not change the columns; for an unsupported type it returns an error that
//! names the type. Source: `NativeWriter.cpp`, `BlockInfo.cpp`.
//!
//! Not here: Variant, Dynamic, JSON and AggregateFunction, whose layouts change between releases;
//! clients must request them in another format.

use crate::exception::Exception;

/// The first revision with a "custom serialization" flag after each column's type.
const WITH_CUSTOM_SERIALIZATION: u64 = 54454;

/// `is_overflows = 0`, `bucket_num = -1`, end: the info of a block that is not part of an aggregation.
const BLOCK_INFO: [u8; 8] = [1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0];

/// Rewrites complete blocks of revision 0 for a client of `revision`.
pub(crate) fn upgrade(blocks: &[u8], revision: u64) -> Result<Vec<u8>, Exception> {
    let mut out = Vec::with_capacity(blocks.len() + 256);
    let mut reader = BlockReader {
        bytes: blocks,
        at: 0,
    };
    while reader.at < blocks.len() {
        out.extend_from_slice(&BLOCK_INFO);
        let start = reader.at;
        let columns = reader.varint()?;
        let rows = reader.varint()?;
        out.extend_from_slice(&blocks[start..reader.at]);
        for _ in 0..columns {
            let start = reader.at;
            reader.string()?;
            let name = reader.string()?;
            out.extend_from_slice(&blocks[start..reader.at]);
            if revision >= WITH_CUSTOM_SERIALIZATION {
                out.push(0);
            }
            if rows > 0 {
                let start = reader.at;
                let column = ColumnLayout::of(&String::from_utf8_lossy(name))?;
                reader.prefix(&column)?;
                reader.column(&column, rows)?;
                out.extend_from_slice(&blocks[start..reader.at]);
            }
        }
    }
    Ok(out)
}

/// Returns the length of the header of RowBinaryWithNamesAndTypes: the number of columns, their names,
/// their types. `None` if the bytes end before.
pub(crate) fn row_binary_header(bytes: &[u8]) -> Option<usize> {
    let mut reader = BlockReader { bytes, at: 0 };
    let columns = reader.varint().ok()?;
    for _ in 0..columns.checked_mul(2)? {
        reader.string().ok()?;
    }
    Some(reader.at)
}

/// How a column is stored in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ColumnLayout {
    /// A fixed number of bytes per row.
    Fixed(u64),
    String,
    Nullable(Box<ColumnLayout>),
    /// Offsets, followed by the elements of all rows.
    Array(Box<ColumnLayout>),
    /// One column after another.
    Tuple(Vec<ColumnLayout>),
    /// A dictionary, followed by positions in it.
    LowCardinality(Box<ColumnLayout>),
}

impl ColumnLayout {
    fn of(name: &str) -> Result<Self, Exception> {
        let name = name.trim();
        let unknown = || {
            Exception::not_implemented(format!(
                "The embedded server cannot send type {name} in the Native format to a client \
                 with client_protocol_version; cast it to String, or ask for another format"
            ))
        };
        let (base, arguments) = match name.split_once('(') {
            None => (name, Vec::new()),
            Some((base, rest)) => {
                let inner = rest.strip_suffix(')').ok_or_else(unknown)?;
                (base.trim(), split(inner))
            }
        };
        let argument = |at: usize| arguments.get(at).copied().ok_or_else(unknown);
        let number = |at: usize| argument(at)?.trim().parse::<u64>().map_err(|_| unknown());
        let point = || Self::Tuple(vec![Self::Fixed(8), Self::Fixed(8)]);
        let array = |inner| Self::Array(Box::new(inner));
        Ok(match base {
            "Int8" | "UInt8" | "Bool" | "Enum8" | "Nothing" => Self::Fixed(1),
            "Int16" | "UInt16" | "Enum16" | "Date" | "BFloat16" => Self::Fixed(2),
            "Int32" | "UInt32" | "Float32" | "Date32" | "DateTime" | "DateTime32" | "Time"
            | "IPv4" | "Decimal32" => Self::Fixed(4),
            "Int64" | "UInt64" | "Float64" | "DateTime64" | "Time64" | "Decimal64" => {
                Self::Fixed(8)
            }
            "Int128" | "UInt128" | "UUID" | "IPv6" | "Decimal128" => Self::Fixed(16),
            "Int256" | "UInt256" | "Decimal256" => Self::Fixed(32),
            "Decimal" => Self::Fixed(match number(0)? {
                0..=9 => 4,
                10..=18 => 8,
                19..=38 => 16,
                _ => 32,
            }),
            "FixedString" => Self::Fixed(number(0)?),
            "String" => Self::String,
            "Nullable" => Self::Nullable(Box::new(Self::of(argument(0)?)?)),
            "Array" => array(Self::of(argument(0)?)?),
            "LowCardinality" => {
                let inner = Self::of(argument(0)?)?;
                // The dictionary contains no nulls: position 0 represents null.
                let inner = match inner {
                    Self::Nullable(inner) => inner,
                    inner => Box::new(inner),
                };
                Self::LowCardinality(inner)
            }
            "Tuple" | "Nested" if !arguments.is_empty() => {
                let elements = arguments
                    .iter()
                    .map(|element| Self::of(without_name(element)))
                    .collect::<Result<Vec<_>, _>>()?;
                if base == "Nested" {
                    array(Self::Tuple(elements))
                } else {
                    Self::Tuple(elements)
                }
            }
            "Map" => array(Self::Tuple(vec![
                Self::of(argument(0)?)?,
                Self::of(argument(1)?)?,
            ])),
            "SimpleAggregateFunction" => Self::of(argument(1)?)?,
            "Point" => point(),
            "Ring" | "LineString" => array(point()),
            "Polygon" | "MultiLineString" => array(array(point())),
            "MultiPolygon" => array(array(array(point()))),
            interval if interval.starts_with("Interval") => Self::Fixed(8),
            _ => return Err(unknown()),
        })
    }
}

/// Splits a type's arguments at the top-level commas.
fn split(arguments: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut depth = 0_u32;
    let mut quote = None;
    let mut start = 0;
    let mut escaped = false;
    for (at, byte) in arguments.bytes().enumerate() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if byte == b'\\' => escaped = true,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None => match byte {
                b'\'' | b'`' | b'"' => quote = Some(byte),
                b'(' => depth += 1,
                b')' => depth = depth.saturating_sub(1),
                b',' if depth == 0 => {
                    parts.push(&arguments[start..at]);
                    start = at + 1;
                }
                _ => {}
            },
        }
    }
    parts.push(&arguments[start..]);
    parts
}

/// Removes the name from a tuple's element: `a UInt8`, `` `a b` UInt8 ``.
fn without_name(element: &str) -> &str {
    let element = element.trim();
    if let Some(quoted) = element.strip_prefix('`') {
        let mut escaped = false;
        let end = quoted.bytes().position(|byte| {
            let closes = byte == b'`' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        });
        return end.map_or(element, |end| &quoted[end + 1..]);
    }
    let name = element
        .bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        .count();
    match element[name..].strip_prefix(' ') {
        Some(rest) => rest,
        None => element,
    }
}

struct BlockReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BlockReader<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], Exception> {
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length))
            .filter(|end| *end <= self.bytes.len())
            .ok_or_else(|| Exception::internal("a Native block ends too early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn rows(&mut self, rows: u64, width: u64) -> Result<&'a [u8], Exception> {
        self.take(rows.saturating_mul(width))
    }

    fn varint(&mut self) -> Result<u64, Exception> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Exception::internal("a Native block has a broken number"))
    }

    fn word(&mut self) -> Result<u64, Exception> {
        let mut word = [0; 8];
        word.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(word))
    }

    fn string(&mut self) -> Result<&'a [u8], Exception> {
        let length = self.varint()?;
        self.take(length)
    }

    /// Reads the prefix of a column: the version of each dictionary's layout.
    fn prefix(&mut self, layout: &ColumnLayout) -> Result<(), Exception> {
        match layout {
            ColumnLayout::Fixed(_) | ColumnLayout::String => Ok(()),
            ColumnLayout::Nullable(inner) | ColumnLayout::Array(inner) => self.prefix(inner),
            ColumnLayout::Tuple(elements) => {
                elements.iter().try_for_each(|inner| self.prefix(inner))
            }
            ColumnLayout::LowCardinality(_) => self.word().map(drop),
        }
    }

    fn column(&mut self, layout: &ColumnLayout, rows: u64) -> Result<(), Exception> {
        match layout {
            ColumnLayout::Fixed(width) => self.rows(rows, *width).map(drop),
            ColumnLayout::String => (0..rows).try_for_each(|_| self.string().map(drop)),
            ColumnLayout::Nullable(inner) => {
                self.rows(rows, 1)?;
                self.column(inner, rows)
            }
            ColumnLayout::Array(inner) => {
                let offsets = self.rows(rows, 8)?;
                let mut last = [0; 8];
                if let Some(word) = offsets.last_chunk::<8>() {
                    last = *word;
                }
                self.column(inner, u64::from_le_bytes(last))
            }
            ColumnLayout::Tuple(elements) => elements
                .iter()
                .try_for_each(|inner| self.column(inner, rows)),
            ColumnLayout::LowCardinality(_) if rows == 0 => Ok(()),
            ColumnLayout::LowCardinality(inner) => {
                const NEEDS_GLOBAL_DICTIONARY: u64 = 1 << 8;
                const HAS_OWN_KEYS: u64 = 1 << 9;
                let flags = self.word()?;
                if flags & NEEDS_GLOBAL_DICTIONARY != 0 {
                    return Err(Exception::internal(
                        "a Native block has a shared dictionary",
                    ));
                }
                if flags & HAS_OWN_KEYS != 0 {
                    let keys = self.word()?;
                    self.column(inner, keys)?;
                }
                let positions = self.word()?;
                self.rows(positions, 1 << (flags & 3)).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layouts_match_the_type_names() {
        use ColumnLayout::{Array, Fixed, LowCardinality, Nullable, String, Tuple};
        let boxed = Box::new;
        for (name, layout) in [
            ("DateTime64(3, 'UTC')", Fixed(8)),
            ("Enum8('a, (b' = 1, 'it\\'s' = 2)", Fixed(1)),
            ("Decimal(38, 4)", Fixed(16)),
            ("FixedString(20)", Fixed(20)),
            (
                "LowCardinality(Nullable(String))",
                LowCardinality(boxed(String)),
            ),
            (
                "Array(Tuple(UInt32, UInt32))",
                Array(boxed(Tuple(vec![Fixed(4), Fixed(4)]))),
            ),
            (
                "Tuple(a UInt8, `b c` Nullable(String), d Array(Date))",
                Tuple(vec![
                    Fixed(1),
                    Nullable(boxed(String)),
                    Array(boxed(Fixed(2))),
                ]),
            ),
            (
                "Map(LowCardinality(String), Float64)",
                Array(boxed(Tuple(vec![LowCardinality(boxed(String)), Fixed(8)]))),
            ),
            ("SimpleAggregateFunction(sum, UInt64)", Fixed(8)),
        ] {
            assert_eq!(ColumnLayout::of(name).unwrap(), layout, "{name}");
        }
        for name in [
            "JSON",
            "Dynamic",
            "Variant(String, UInt8)",
            "Tuple()",
            "Array(",
            "",
        ] {
            assert_eq!(ColumnLayout::of(name).unwrap_err().code(), 48, "{name}");
        }
    }

    #[test]
    fn upgraded_blocks_have_info_and_flags() {
        let block = [1, 2, 1, b'a', 5, b'U', b'I', b'n', b't', b'8', 7, 8];
        let mut expected = BLOCK_INFO.to_vec();
        expected.extend_from_slice(&block[..10]);
        expected.extend_from_slice(&[0, 7, 8]);
        assert_eq!(upgrade(&block, 54460).unwrap(), expected);
        expected.remove(18);
        assert_eq!(upgrade(&block, 54405).unwrap(), expected);
        assert_eq!(upgrade(&block[..11], 54460).unwrap_err().code(), 1002);
    }

    proptest! {
        #[test]
        fn any_bytes_and_names_are_read_or_refused(bytes: Vec<u8>, name in "\\PC*") {
            let _ = upgrade(&bytes, 54460);
            let _ = row_binary_header(&bytes);
            let _ = ColumnLayout::of(&name);
        }
    }
}

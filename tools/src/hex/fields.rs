//! Where the fields of a record's body lie (F9), and what each says.
//!
//! Invariant: found by writing the body once more, field by field, as the format says; so that a new field
//! needs nothing here, and the sizes add up to the body's.
//! Not here: the bytes themselves.

use core::fmt;

use journal_format::record::RecordBody;
use serde::ser::{self, Impossible, Serialize};

/// A field of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Where it begins, in bytes from the start of the body.
    pub(super) at: usize,
    /// Its bytes.
    pub(super) size: usize,
    /// Its name, with those of the structures around it.
    pub(super) name: String,
    /// What it says.
    pub(super) value: String,
}

/// The fields of a body, in order.
pub(super) fn of(body: &RecordBody) -> Vec<Field> {
    let mut walk = Walk::default();
    match body.serialize(&mut walk) {
        Ok(()) => walk.fields,
        // No body has such a value; its bytes are shown without names.
        Err(Unknown) => Vec::new(),
    }
}

/// A value that no body has.
#[derive(Debug)]
struct Unknown;

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a value of the format")
    }
}

impl std::error::Error for Unknown {}

impl ser::Error for Unknown {
    fn custom<T: fmt::Display>(_: T) -> Unknown {
        Unknown
    }
}

#[derive(Debug, Default)]
struct Walk {
    fields: Vec<Field>,
    at: usize,
    path: Vec<String>,
}

impl Walk {
    fn push(&mut self, size: usize, value: String) {
        self.push_named("", size, value);
    }

    /// A field, or a part of one that has a name of its own.
    fn push_named(&mut self, part: &str, size: usize, value: String) {
        let mut name = self.path.join(".");
        if !part.is_empty() {
            name = format!("{name} ({part})");
        }
        self.fields.push(Field {
            at: self.at,
            size,
            name: name.trim_start().to_owned(),
            value,
        });
        self.at += size;
    }

    fn inside<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Unknown> {
        self.path.push(name.to_owned());
        let done = value.serialize(&mut *self);
        self.path.pop();
        done
    }
}

/// The fields of a list, a tuple or a structure.
#[derive(Debug)]
struct Parts<'a> {
    walk: &'a mut Walk,
    index: usize,
}

impl<'a> Parts<'a> {
    fn new(walk: &'a mut Walk) -> Parts<'a> {
        Parts { walk, index: 0 }
    }

    /// Of a variant, whose number comes first.
    fn of_variant(walk: &'a mut Walk, word: &str) -> Parts<'a> {
        walk.push(4, word.to_owned());
        Parts::new(walk)
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unknown> {
        let name = self.index.to_string();
        self.index += 1;
        self.walk.inside(&name, value)
    }

    fn member<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Unknown> {
        // The type, which stands in the record's header and only in JSON among the fields.
        if name == "type" && self.walk.path.is_empty() {
            return Ok(());
        }
        self.walk.inside(name, value)
    }
}

macro_rules! numbers {
    ($($name:ident: $type:ty,)+) => {
        $(fn $name(self, value: $type) -> Result<(), Unknown> {
            self.push(size_of::<$type>(), value.to_string());
            Ok(())
        })+
    };
}

macro_rules! not_in_a_body {
    ($($name:ident: $type:ty,)+) => {
        $(fn $name(self, _: $type) -> Result<(), Unknown> {
            Err(Unknown)
        })+
    };
}

impl<'a> ser::Serializer for &'a mut Walk {
    type Ok = ();
    type Error = Unknown;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Impossible<(), Unknown>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    fn is_human_readable(&self) -> bool {
        false
    }

    numbers! {
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_bool: bool,
    }

    not_in_a_body! {
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_f32: f32,
        serialize_f64: f64,
        serialize_char: char,
        serialize_bytes: &[u8],
    }

    /// Identities, and nothing else, are numbers of this size.
    fn serialize_u128(self, value: u128) -> Result<(), Unknown> {
        let id = journal_format::number::Id128(value.to_le_bytes());
        self.push(16, id.to_string());
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Unknown> {
        self.push_named("length", 8, value.len().to_string());
        self.push(value.len(), format!("\"{value}\""));
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Unknown> {
        self.push(1, "none".to_owned());
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unknown> {
        self.push_named("is there", 1, String::new());
        value.serialize(self)
    }

    /// A body without fields.
    fn serialize_unit(self) -> Result<(), Unknown> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unknown> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        word: &'static str,
    ) -> Result<(), Unknown> {
        self.push(4, word.to_owned());
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Unknown> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        word: &'static str,
        value: &T,
    ) -> Result<(), Unknown> {
        self.push(4, word.to_owned());
        self.inside(word, value)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Parts<'a>, Unknown> {
        self.push_named("count", 8, length.ok_or(Unknown)?.to_string());
        Ok(Parts::new(self))
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a>, Unknown> {
        Ok(Parts::new(self))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Unknown> {
        Ok(Parts::new(self))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        word: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Unknown> {
        Ok(Parts::of_variant(self, word))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Unknown> {
        Err(Unknown)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Unknown> {
        Ok(Parts::new(self))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        word: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Unknown> {
        Ok(Parts::of_variant(self, word))
    }
}

/// Compounds whose parts have numbers for names, and those that have names.
macro_rules! compounds {
    (numbered $($compound:ident: $each:ident,)+) => {
        $(impl ser::$compound for Parts<'_> {
            type Ok = ();
            type Error = Unknown;

            fn $each<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unknown> {
                self.element(value)
            }

            fn end(self) -> Result<(), Unknown> {
                Ok(())
            }
        })+
    };
    (named $($compound:ident,)+) => {
        $(impl ser::$compound for Parts<'_> {
            type Ok = ();
            type Error = Unknown;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Unknown> {
                self.member(name, value)
            }

            fn end(self) -> Result<(), Unknown> {
                Ok(())
            }
        })+
    };
}

compounds! {
    numbered
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

compounds! {
    named
    SerializeStruct,
    SerializeStructVariant,
}

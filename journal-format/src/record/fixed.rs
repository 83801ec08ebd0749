//! Reading what bincode writes with fixed-width integers, little-endian: each body goes through here, and bincode's
//! own reader takes twice as long for it.
//!
//! Invariant: reads exactly what bincode reads, and refuses what that refuses (a test holds one against the other); total
//! over any bytes; a list is set aside no more room for than it can have elements, which take a byte at least (no body
//! has a list of empty things).
//! Not here: which bytes, and what is made of them (`codec`).

use core::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, SeqAccess, VariantAccess,
    Visitor,
};

/// The bytes are no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotThat;

impl fmt::Display for NotThat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are no such value")
    }
}

impl core::error::Error for NotThat {}

impl Error for NotThat {
    fn custom<T: fmt::Display>(_: T) -> NotThat {
        NotThat
    }
}

/// Bytes that values are read from, one behind the other.
#[derive(Debug)]
pub(super) struct Reader<'de>(&'de [u8]);

/// Reads a value that takes all of these bytes.
///
/// # Errors
/// They are no such value, or go on behind it.
#[inline]
pub(super) fn read_all<'de, T: serde::Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, NotThat> {
    let mut reader = Reader(bytes);
    let value = T::deserialize(&mut reader)?;
    match reader.0 {
        [] => Ok(value),
        _ => Err(NotThat),
    }
}

impl<'de> Reader<'de> {
    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], NotThat> {
        let (array, rest) = self.0.split_first_chunk().ok_or(NotThat)?;
        self.0 = rest;
        Ok(*array)
    }

    #[inline]
    fn length(&mut self) -> Result<usize, NotThat> {
        let length = u64::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| NotThat)
    }

    #[inline]
    fn bit(&mut self) -> Result<bool, NotThat> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [_] => Err(NotThat),
        }
    }

    #[inline]
    fn text(&mut self) -> Result<&'de str, NotThat> {
        let length = self.length()?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(NotThat)?;
        self.0 = rest;
        core::str::from_utf8(text).map_err(|_| NotThat)
    }
}

/// Numbers of a width of their own.
macro_rules! numbers {
    ($($method:ident $visit:ident $number:ty,)+) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotThat> {
            visitor.$visit(<$number>::from_le_bytes(self.array()?))
        }
    )+};
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = NotThat;

    numbers! {
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128,
        deserialize_i64 visit_i64 i64,
    }

    // The bytes do not tell what they are.
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NotThat> {
        Err(NotThat)
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotThat> {
        visitor.visit_bool(self.bit()?)
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotThat> {
        visitor.visit_borrowed_str(self.text()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotThat> {
        self.deserialize_str(visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotThat> {
        match self.bit()? {
            true => visitor.visit_some(self),
            false => visitor.visit_none(),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotThat> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NotThat> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NotThat> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotThat> {
        let left = self.length()?;
        visitor.visit_seq(Elements { reader: self, left })
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, NotThat> {
        visitor.visit_seq(Elements { reader: self, left })
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, NotThat> {
        self.deserialize_tuple(left, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NotThat> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NotThat> {
        visitor.visit_enum(self)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    // No body has any of these.
    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 f32 f64 char bytes byte_buf map identifier ignored_any
    }
}

/// So many values in a row.
struct Elements<'a, 'de> {
    reader: &'a mut Reader<'de>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = NotThat;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, NotThat> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        seed.deserialize(&mut *self.reader).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        // Each takes a byte at least, so that there are no more than bytes.
        Some(self.left.min(self.reader.0.len()))
    }
}

impl<'de> EnumAccess<'de> for &mut Reader<'de> {
    type Error = NotThat;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), NotThat> {
        let index = u32::from_le_bytes(self.array()?);
        let variant = seed.deserialize(IntoDeserializer::<NotThat>::into_deserializer(index))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Reader<'de> {
    type Error = NotThat;

    #[inline]
    fn unit_variant(self) -> Result<(), NotThat> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, NotThat> {
        seed.deserialize(self)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, NotThat> {
        self.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NotThat> {
        self.deserialize_tuple(fields.len(), visitor)
    }
}

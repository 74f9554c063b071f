//! Typed values in JSON's spelling, so that nothing of them is lost.
//!
//! arrow-json writes most types exactly: integers and decimals with all digits, dates and times as ISO 8601 with all
//! digits of the fraction, an offset where they have a zone, structs and maps as objects. What it would lose is written
//! here: a float that is not finite is a text, not null; a 32-bit float has the digits of its exact value; bytes are a
//! text if they are UTF-8, else `{"hex": "…"}`, which is no text; a UUID is its usual spelling; a value of an Avro union
//! is the value of its branch.

use arrow::array::{
    Array, ArrayAccessor, AsArray, FixedSizeBinaryArray, Float16Array, Float32Array, Float64Array, UnionArray,
};
use arrow::datatypes::{DataType, FieldRef, Float16Type, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::NullableEncoder;
use arrow::json::{Encoder, EncoderFactory, EncoderOptions};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

/// How values are written.
pub(super) fn options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(Exact))
}

#[derive(Debug)]
struct Exact;

impl EncoderFactory for Exact {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 => Box::new(Half(array.as_primitive::<Float16Type>())),
            DataType::Float32 => Box::new(Single(array.as_primitive::<Float32Type>())),
            DataType::Float64 => Box::new(Double(array.as_primitive::<Float64Type>())),
            DataType::Binary => Box::new(Bytes(array.as_binary::<i32>())),
            DataType::LargeBinary => Box::new(Bytes(array.as_binary::<i64>())),
            DataType::BinaryView => Box::new(Bytes(array.as_binary_view())),
            DataType::FixedSizeBinary(16) if is_uuid(field) => Box::new(Uuid(array.as_fixed_size_binary())),
            DataType::FixedSizeBinary(_) => Box::new(Bytes(array.as_fixed_size_binary())),
            DataType::Union(fields, _) => {
                let array = array.as_union();
                let branches = fields.iter().map(|(id, field)| {
                    Ok((id, arrow::json::writer::make_encoder(field, array.child(id).as_ref(), options)?))
                });
                Box::new(Branch { array, branches: branches.collect::<Result<_, ArrowError>>()? })
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.logical_nulls())))
    }
}

fn is_uuid(field: &FieldRef) -> bool {
    let says = |key: &str, value: &str| field.metadata().get(key).is_some_and(|said| said == value);
    says("logicalType", "uuid") || says("ARROW:extension:name", "arrow.uuid")
}

struct Half<'a>(&'a Float16Array);
struct Single<'a>(&'a Float32Array);
struct Double<'a>(&'a Float64Array);

/// Writing to memory cannot fail.
fn float(value: f64, out: &mut Vec<u8>) {
    let _ = if value.is_finite() { write!(out, "{value:?}") } else { write!(out, "\"{value}\"") };
}

impl Encoder for Half<'_> {
    fn encode(&mut self, idx: usize, out: &mut Vec<u8>) {
        float(self.0.value(idx).to_f64(), out);
    }
}

impl Encoder for Single<'_> {
    fn encode(&mut self, idx: usize, out: &mut Vec<u8>) {
        float(f64::from(self.0.value(idx)), out);
    }
}

impl Encoder for Double<'_> {
    fn encode(&mut self, idx: usize, out: &mut Vec<u8>) {
        float(self.0.value(idx), out);
    }
}

struct Bytes<A>(A);

impl<'a, A: ArrayAccessor<Item = &'a [u8]>> Encoder for Bytes<A> {
    fn encode(&mut self, idx: usize, out: &mut Vec<u8>) {
        let bytes = self.0.value(idx);
        match std::str::from_utf8(bytes) {
            Ok(text) => drop(serde_json::to_writer(out, text)),
            Err(_) => {
                out.extend_from_slice(b"{\"hex\":\"");
                hex(bytes, out);
                out.extend_from_slice(b"\"}");
            }
        }
    }
}

struct Uuid<'a>(&'a FixedSizeBinaryArray);

impl Encoder for Uuid<'_> {
    fn encode(&mut self, idx: usize, out: &mut Vec<u8>) {
        let bytes = self.0.value(idx);
        out.push(b'"');
        for (at, part) in [0..4, 4..6, 6..8, 8..10, 10..16].into_iter().enumerate() {
            if at > 0 {
                out.push(b'-');
            }
            hex(&bytes[part], out);
        }
        out.push(b'"');
    }
}

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

struct Branch<'a> {
    array: &'a UnionArray,
    branches: BTreeMap<i8, NullableEncoder<'a>>,
}

impl Encoder for Branch<'_> {
    fn encode(&mut self, idx: usize, out: &mut Vec<u8>) {
        let at = self.array.value_offset(idx);
        match self.branches.get_mut(&self.array.type_id(idx)) {
            Some(branch) if !branch.is_null(at) => branch.encode(at, out),
            _ => out.extend_from_slice(b"null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, BinaryArray};
    use arrow::datatypes::Field;
    use rstest::rstest;

    fn json(field: Field, array: ArrayRef) -> String {
        let (field, options) = (Arc::new(field), options());
        let mut encoder = arrow::json::writer::make_encoder(&field, array.as_ref(), &options).unwrap();
        let mut out = Vec::new();
        for row in 0..array.len() {
            if row > 0 {
                out.push(b' ');
            }
            if encoder.is_null(row) { out.extend_from_slice(b"null") } else { encoder.encode(row, &mut out) }
        }
        String::from_utf8(out).unwrap()
    }

    #[rstest]
    #[case(Arc::new(Float32Array::from(vec![Some(0.1), Some(-0.0), None])) as ArrayRef, "0.10000000149011612 -0.0 null")]
    #[case(Arc::new(Float64Array::from(vec![0.1, 1e21, 5e-324, f64::NAN, f64::NEG_INFINITY])) as ArrayRef, "0.1 1e21 5e-324 \"NaN\" \"-inf\"")]
    #[case(Arc::new(BinaryArray::from(vec![b"a\"".as_slice(), &[0xFF, 0]])) as ArrayRef, "\"a\\\"\" {\"hex\":\"ff00\"}")]
    #[case(Arc::new(arrow::array::UInt64Array::from(vec![u64::MAX])) as ArrayRef, "18446744073709551615")]
    #[case(Arc::new(arrow::array::Decimal128Array::from(vec![-12_345_678_901_234_567_890_123_456_789_012_345_678]).with_precision_and_scale(38, 37).unwrap()) as ArrayRef, "-1.2345678901234567890123456789012345678")]
    #[case(Arc::new(arrow::array::TimestampNanosecondArray::from(vec![1, 1_000]).with_timezone("UTC")) as ArrayRef, "\"1970-01-01T00:00:00.000000001Z\" \"1970-01-01T00:00:00.000001Z\"")]
    #[case(Arc::new(arrow::array::TimestampMillisecondArray::from(vec![-1])) as ArrayRef, "\"1969-12-31T23:59:59.999\"")]
    #[case(Arc::new(arrow::array::TimestampSecondArray::from(vec![0]).with_timezone("Europe/Kyiv")) as ArrayRef, "\"1970-01-01T03:00:00+03:00\"")]
    #[case(Arc::new(arrow::array::Date32Array::from(vec![-1])) as ArrayRef, "\"1969-12-31\"")]
    fn nothing_is_lost(#[case] array: ArrayRef, #[case] expected: &str) {
        assert_eq!(json(Field::new("x", array.data_type().clone(), true), array), expected);
    }

    #[test]
    fn a_uuid_is_a_text() {
        let array: ArrayRef = Arc::new(FixedSizeBinaryArray::try_from_iter([[0x12u8; 16]].into_iter()).unwrap());
        let field = Field::new("x", array.data_type().clone(), true);
        let field = field.with_metadata([("logicalType".to_owned(), "uuid".to_owned())].into());
        assert_eq!(json(field, array), "\"12121212-1212-1212-1212-121212121212\"");
    }
}

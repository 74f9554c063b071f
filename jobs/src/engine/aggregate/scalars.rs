//! The scalar functions that the rewrite puts into a user's plan: the window of an event, the one
//! spelling of a float, and the bucket of a key.

use super::compute::Bucket;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, TimestampMicrosecondArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType};
use arrow::row::{Row, RowConverter, SortField};
use deltalake::datafusion::common::{DataFusionError, Result, exec_err};
use deltalake::datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use deltaworks_core::windows::{Base, Binner, Granularity, Instant, Zone};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Which windows instants are put into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bins {
    /// The finest ones, which states are kept in.
    Base(Base, Zone),
    /// Those of a granularity.
    Of(Granularity, Zone),
}

impl Bins {
    pub(super) fn binner(&self) -> Binner {
        match self {
            Self::Base(base, zone) => Binner::of_base(*base, zone.clone()),
            Self::Of(granularity, zone) => Binner::new(*granularity, zone.clone()),
        }
    }
}

impl Hash for Bins {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Base(base, _) => base.hash(state),
            Self::Of(granularity, _) => granularity.hash(state),
        }
    }
}

/// The type of instants: UTC microseconds.
pub(super) fn instant_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The window starts of `instants`, which have no nulls.
pub(super) fn window_starts(binner: &mut Binner, instants: &ArrayRef) -> Result<ArrayRef> {
    let Some(instants) = instants.as_primitive_opt::<TimestampMicrosecondType>().filter(|a| a.null_count() == 0) else {
        return exec_err!("an event has no time");
    };
    let starts = instants
        .values()
        .iter()
        .map(|us| binner.bin(Instant(*us)).map(|start| start.0).map_err(|e| DataFusionError::External(Box::new(e))));
    let starts: TimestampMicrosecondArray = starts.collect::<Result<Vec<i64>>>()?.into();
    Ok(Arc::new(starts.with_timezone("UTC")))
}

/// `window_start(instant)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct WindowStart {
    bins: Bins,
    signature: Signature,
}

impl WindowStart {
    pub(super) fn new(bins: Bins) -> Self {
        Self { bins, signature: Signature::exact(vec![instant_type()], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WindowStart {
    fn name(&self) -> &str {
        "window_start"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(instant_type())
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [instants] = arrays.as_slice() else { return exec_err!("`window_start` takes one argument") };
        Ok(ColumnarValue::Array(window_starts(&mut self.bins.binner(), instants)?))
    }
}

/// `in_bucket(keys…)`: whether rows of these keys belong to one of several buckets.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct InBucket {
    bucket: Bucket,
    signature: Signature,
}

impl InBucket {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for InBucket {
    fn name(&self) -> &str {
        "in_bucket"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let keys = args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(&keys)?;
        let of = u64::from(self.bucket.of.get());
        let is_in = |row: Row<'_>| Some(xxh3_64(row.as_ref()) % of == u64::from(self.bucket.index));
        Ok(ColumnarValue::Array(Arc::new(rows.iter().map(is_in).collect::<BooleanArray>())))
    }
}

/// `plain_float(x)`: −0.0 becomes 0.0 and every NaN the same NaN. Without it, which of two equal floats
/// `min`, a group's key or a median shows would depend on the order of the rows.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct PlainFloat {
    signature: Signature,
}

impl PlainFloat {
    pub(super) fn new() -> Self {
        let floats = vec![DataType::Float64, DataType::Float32];
        Self { signature: Signature::uniform(1, floats, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for PlainFloat {
    fn name(&self) -> &str {
        "plain_float"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().map_or_else(|| exec_err!("`plain_float` takes one argument"), Ok)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [floats] = arrays.as_slice() else { return exec_err!("`plain_float` takes one argument") };
        let plain: ArrayRef = match floats.data_type() {
            DataType::Float64 => plain::<Float64Type>(floats, |x| if x.is_nan() { f64::NAN } else { x + 0.0 }),
            DataType::Float32 => plain::<Float32Type>(floats, |x| if x.is_nan() { f32::NAN } else { x + 0.0 }),
            other => return exec_err!("`{other}` is no float"),
        };
        Ok(ColumnarValue::Array(plain))
    }
}

/// −0.0 + 0.0 is 0.0, and every other value stays itself.
fn plain<T: ArrowPrimitiveType>(floats: &ArrayRef, of: impl Fn(T::Native) -> T::Native) -> ArrayRef {
    let plain: PrimitiveArray<T> = floats.as_primitive::<T>().unary(of);
    Arc::new(plain)
}

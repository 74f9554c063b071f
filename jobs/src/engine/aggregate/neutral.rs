//! A planned SELECT in no engine's words, for another engine to compute.
//!
//! What has no such words is told by name; nothing is left out silently. Casts of constants are carried out,
//! for they are the spelling of a constant and no computation.

use super::shape::{Parts, table};
use arrow::datatypes::{DataType, TimeUnit};
use deltalake::datafusion::common::{DFSchema, JoinType, TableReference};
use deltalake::datafusion::logical_expr::expr::{AggregateFunction, Case, InList, Like};
use deltalake::datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, Filter, Join as PlannedJoin, LogicalPlan};
use deltalake::datafusion::scalar::ScalarValue;
use deltaworks_core::select::{Call, Join, Kind, Order, Select, Term, Value};

/// Why a SELECT has no neutral form: a part of it, as it was written.
type Told<T> = Result<T, String>;

/// What columns of an expression stand for.
enum Scope<'s> {
    /// Columns of the pipeline and of lookups, by qualifier.
    Below(&'s [TableReference]),
    /// Columns of the aggregation's result.
    Above,
}

/// An expression's surroundings.
struct Speller<'s> {
    scope: Scope<'s>,
    schema: &'s DFSchema,
    /// How many columns of the aggregation's result are keys.
    keys: usize,
}

/// The parts of a plan whose types were made to fit.
pub(super) fn select(parts: &Parts) -> Told<Select> {
    let Aggregate { input, group_expr, aggr_expr, schema, .. } = &parts.aggregation;
    let mut from = From { tables: Vec::new(), joins: Vec::new(), filters: Vec::new() };
    from.take(input)?;
    let From { tables, joins, filters } = from;
    let below = Speller { scope: Scope::Below(&tables), schema: input.schema(), keys: 0 };
    let keys = group_expr.iter().map(|key| below.term(key)).collect::<Told<Vec<_>>>()?;
    let above = Speller { scope: Scope::Above, schema, keys: keys.len() };
    let calls = aggr_expr.iter().map(|call| {
        let kind = call.get_type(input.schema()).map_err(|e| e.to_string())?;
        below.call(call, kind_of(&kind)?)
    });
    let list = parts.list.expr.iter().zip(parts.list.schema.fields());
    Ok(Select {
        joins,
        filters,
        calls: calls.collect::<Told<_>>()?,
        having: parts.having.as_ref().map(|having| above.term(having)).transpose()?,
        list: list.map(|(e, field)| Ok((field.name().clone(), above.term(e)?))).collect::<Told<_>>()?,
        keys,
    })
}

/// The type of a column of a table, in no engine's words.
///
/// # Errors
/// The type, where it has none.
pub fn kind_of(of: &DataType) -> Result<Kind, String> {
    let integer = |bits, signed| Kind::Integer { bits, signed };
    Ok(match of {
        DataType::Null => Kind::Null,
        DataType::Boolean => Kind::Boolean,
        DataType::Int8 => integer(8, true),
        DataType::Int16 => integer(16, true),
        DataType::Int32 => integer(32, true),
        DataType::Int64 => integer(64, true),
        DataType::UInt8 => integer(8, false),
        DataType::UInt16 => integer(16, false),
        DataType::UInt32 => integer(32, false),
        DataType::UInt64 => integer(64, false),
        DataType::Float32 => Kind::Float { bits: 32 },
        DataType::Float64 => Kind::Float { bits: 64 },
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            Kind::Decimal { precision: *precision, scale: scale.unsigned_abs() }
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Kind::Bytes,
        DataType::Date32 => Kind::Date,
        DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, zone) => {
            Kind::Instant { zone: zone.as_ref().map(ToString::to_string) }
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|f| Ok((f.name().clone(), kind_of(f.data_type())?)));
            Kind::Struct(fields.collect::<Told<_>>()?)
        }
        DataType::List(item) | DataType::LargeList(item) => Kind::List(Box::new(kind_of(item.data_type())?)),
        DataType::Dictionary(_, values) => kind_of(values)?,
        other => return Err(format!("the type `{other}`")),
    })
}

/// FROM, JOIN and WHERE.
struct From {
    tables: Vec<TableReference>,
    joins: Vec<Join>,
    filters: Vec<Term>,
}

impl From {
    fn take(&mut self, plan: &LogicalPlan) -> Told<()> {
        match plan {
            LogicalPlan::Filter(Filter { predicate, input, .. }) => {
                self.take(input)?;
                let filter = self.speller(input.schema()).term(predicate)?;
                self.filters.push(filter);
            }
            LogicalPlan::Join(join) => {
                self.take(&join.left)?;
                self.join(join)?;
            }
            other => {
                let (_, qualifier) = table(other).ok_or("a subquery")?;
                self.tables.push(qualifier);
            }
        }
        Ok(())
    }

    fn join(&mut self, join: &PlannedJoin) -> Told<()> {
        let (lookup, qualifier) = table(&join.right).ok_or("a subquery")?;
        self.tables.push(qualifier);
        let keeps_all = match join.join_type {
            JoinType::Inner => false,
            JoinType::Left => true,
            other => return Err(format!("a {other} join")),
        };
        if keeps_all && !self.filters.is_empty() {
            return Err("a filter under a left join".into());
        }
        let (left, right) = (self.speller(join.left.schema()), self.speller(join.right.schema()));
        let on = join.on.iter().map(|(a, b)| Ok((left.term(a)?, right.term(b)?))).collect::<Told<_>>()?;
        let both = join.left.schema().join(join.right.schema()).map_err(|e| e.to_string())?;
        let filter = join.filter.as_ref().map(|filter| self.speller(&both).term(filter)).transpose()?;
        self.joins.push(Join { lookup, keeps_all, on, filter });
        Ok(())
    }

    fn speller<'s>(&'s self, schema: &'s DFSchema) -> Speller<'s> {
        Speller { scope: Scope::Below(&self.tables), schema, keys: 0 }
    }
}

impl Speller<'_> {
    fn kind(&self, expression: &Expr) -> Told<Kind> {
        kind_of(&expression.get_type(self.schema).map_err(|e| e.to_string())?)
    }

    fn terms(&self, expressions: &[Expr]) -> Told<Vec<Term>> {
        expressions.iter().map(|e| self.term(e)).collect()
    }

    fn term(&self, expression: &Expr) -> Told<Term> {
        let apply = |function: &str, arguments: &[&Expr]| {
            let arguments = arguments.iter().map(|e| self.term(e)).collect::<Told<Vec<_>>>()?;
            Ok(Term::Apply { function: function.to_owned(), arguments, kind: self.kind(expression)? })
        };
        match expression {
            Expr::Alias(alias) => self.term(&alias.expr),
            Expr::Column(_) => self.column(expression),
            Expr::Literal(value, _) => literal(value),
            Expr::Cast(cast) => match cast.expr.as_ref() {
                Expr::Literal(value, _) => literal(&value.cast_to(cast.field.data_type()).map_err(|e| e.to_string())?),
                of => Ok(Term::Cast { of: Box::new(self.term(of)?), kind: kind_of(cast.field.data_type())? }),
            },
            Expr::BinaryExpr(binary) => apply(&binary.op.to_string(), &[&*binary.left, &*binary.right]),
            Expr::Not(of) => apply("NOT", &[&**of]),
            Expr::IsNull(of) => apply("IS NULL", &[&**of]),
            Expr::IsNotNull(of) => apply("IS NOT NULL", &[&**of]),
            Expr::IsTrue(of) => apply("IS TRUE", &[&**of]),
            Expr::IsNotTrue(of) => apply("IS NOT TRUE", &[&**of]),
            Expr::IsFalse(of) => apply("IS FALSE", &[&**of]),
            Expr::IsNotFalse(of) => apply("IS NOT FALSE", &[&**of]),
            Expr::IsUnknown(of) => apply("IS NULL", &[&**of]),
            Expr::IsNotUnknown(of) => apply("IS NOT NULL", &[&**of]),
            Expr::Negative(of) => apply("NEGATIVE", &[&**of]),
            Expr::Between(between) => {
                let name = if between.negated { "NOT BETWEEN" } else { "BETWEEN" };
                apply(name, &[&*between.expr, &*between.low, &*between.high])
            }
            Expr::Like(like) => self.like(like),
            Expr::InList(InList { expr, list, negated }) => {
                let arguments: Vec<&Expr> = std::iter::once(&**expr).chain(list).collect();
                apply(if *negated { "NOT IN" } else { "IN" }, &arguments)
            }
            Expr::Case(case) => self.case(case, self.kind(expression)?),
            Expr::ScalarFunction(call) => match (call.func.name(), call.args.as_slice()) {
                ("get_field", [of, Expr::Literal(name, _)]) => {
                    let name = name.try_as_str().flatten().ok_or("a field without a name")?.to_owned();
                    Ok(Term::Field { of: Box::new(self.term(of)?), name, kind: self.kind(expression)? })
                }
                (name, arguments) => Ok(Term::Apply {
                    function: name.to_owned(),
                    arguments: self.terms(arguments)?,
                    kind: self.kind(expression)?,
                }),
            },
            other => Err(format!("`{other}`")),
        }
    }

    fn column(&self, expression: &Expr) -> Told<Term> {
        let Expr::Column(column) = expression else { return Err(format!("`{expression}`")) };
        let (kind, unknown) = (self.kind(expression)?, || format!("the column `{column}`"));
        match &self.scope {
            Scope::Above => {
                let n = self.schema.index_of_column(column).map_err(|_| unknown())?;
                Ok(if n < self.keys { Term::Key(n, kind) } else { Term::Result(n - self.keys, kind) })
            }
            Scope::Below(tables) => {
                let of = |qualifier| tables.iter().position(|table| table == qualifier);
                let table = column.relation.as_ref().and_then(of).ok_or_else(unknown)?;
                Ok(Term::Column { table, name: column.name.clone(), kind })
            }
        }
    }

    fn like(&self, like: &Like) -> Told<Term> {
        if like.escape_char.is_some() {
            return Err("LIKE with ESCAPE".into());
        }
        let function = match (like.negated, like.case_insensitive) {
            (false, false) => "LIKE",
            (true, false) => "NOT LIKE",
            (false, true) => "ILIKE",
            (true, true) => "NOT ILIKE",
        };
        let arguments = vec![self.term(&like.expr)?, self.term(&like.pattern)?];
        Ok(Term::Apply { function: function.into(), arguments, kind: Kind::Boolean })
    }

    fn case(&self, case: &Case, kind: Kind) -> Told<Term> {
        let of = case.expr.as_ref().map(|e| self.term(e)).transpose()?;
        let branches = case.when_then_expr.iter().map(|(when, then)| {
            let when = self.term(when)?;
            let condition = match &of {
                None => when,
                Some(of) => {
                    Term::Apply { function: "=".into(), arguments: vec![of.clone(), when], kind: Kind::Boolean }
                }
            };
            Ok((condition, self.term(then)?))
        });
        let branches = branches.collect::<Told<_>>()?;
        let otherwise = case.else_expr.as_ref().map(|e| self.term(e).map(Box::new)).transpose()?;
        Ok(Term::Case { branches, otherwise, kind })
    }

    fn call(&self, call: &Expr, kind: Kind) -> Told<Call> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = call.clone().unalias_nested().data else {
            return Err(format!("`{call}`"));
        };
        let order = params
            .order_by
            .iter()
            .map(|sort| Ok(Order { by: self.term(&sort.expr)?, descending: !sort.asc, nulls_first: sort.nulls_first }));
        Ok(Call {
            function: func.name().to_owned(),
            arguments: self.terms(&params.args)?,
            distinct: params.distinct,
            filter: params.filter.as_ref().map(|filter| self.term(filter)).transpose()?,
            order: order.collect::<Told<_>>()?,
            kind,
        })
    }
}

fn literal(value: &ScalarValue) -> Told<Term> {
    let kind = kind_of(&value.data_type())?;
    let integer = |n: Option<i128>| n.map(Value::Integer);
    let whole = |ns: i64| (ns % 1_000 == 0).then_some(ns / 1_000).ok_or("a time finer than microseconds");
    let value = match value {
        ScalarValue::Null => None,
        ScalarValue::Boolean(b) => b.map(Value::Boolean),
        ScalarValue::Int8(n) => integer(n.map(Into::into)),
        ScalarValue::Int16(n) => integer(n.map(Into::into)),
        ScalarValue::Int32(n) => integer(n.map(Into::into)),
        ScalarValue::Int64(n) => integer(n.map(Into::into)),
        ScalarValue::UInt8(n) => integer(n.map(Into::into)),
        ScalarValue::UInt16(n) => integer(n.map(Into::into)),
        ScalarValue::UInt32(n) => integer(n.map(Into::into)),
        ScalarValue::UInt64(n) => integer(n.map(Into::into)),
        ScalarValue::Float32(x) => x.map(|x| Value::Float(x.into())),
        ScalarValue::Float64(x) => x.map(Value::Float),
        ScalarValue::Decimal128(n, ..) => n.map(Value::Decimal),
        ScalarValue::Utf8(t) | ScalarValue::LargeUtf8(t) | ScalarValue::Utf8View(t) => t.clone().map(Value::Text),
        ScalarValue::Date32(d) => d.map(Value::Date),
        ScalarValue::TimestampMicrosecond(us, _) => us.map(Value::Instant),
        ScalarValue::TimestampNanosecond(ns, _) => ns.map(|ns| whole(ns).map(Value::Instant)).transpose()?,
        other => return Err(format!("the constant `{other}`")),
    };
    Ok(Term::Literal(value.unwrap_or(Value::Null), kind))
}

//! What an aggregate computes, in no engine's words: the tree that one engine makes of the user's SELECT and
//! another one computes anew.
//!
//! It says what was typed after names are resolved and casts are put in, and nothing of how it is computed.
//! Operators and functions go by their SQL names; whoever computes them says which it knows.

use std::fmt;

/// The type of a term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Of a null that has no other type.
    Null,
    /// True or false.
    Boolean,
    /// A whole number.
    Integer {
        /// 8 to 64.
        bits: u8,
        /// Whether it may be below 0.
        signed: bool,
    },
    /// A binary floating-point number.
    Float {
        /// 32 or 64.
        bits: u8,
    },
    /// A decimal.
    Decimal {
        /// Digits.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// Unicode text.
    Text,
    /// Bytes.
    Bytes,
    /// A date.
    Date,
    /// Microseconds since the Unix epoch.
    Instant {
        /// The zone in which its parts are told; none is UTC.
        zone: Option<String>,
    },
    /// A record of named fields.
    Struct(Vec<(String, Kind)>),
    /// A list.
    List(Box<Kind>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Boolean => f.write_str("boolean"),
            Self::Integer { bits, signed: true } => write!(f, "int{bits}"),
            Self::Integer { bits, signed: false } => write!(f, "uint{bits}"),
            Self::Float { bits } => write!(f, "float{bits}"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision}, {scale})"),
            Self::Text => f.write_str("text"),
            Self::Bytes => f.write_str("bytes"),
            Self::Date => f.write_str("date"),
            Self::Instant { zone: None } => f.write_str("timestamp"),
            Self::Instant { zone: Some(zone) } => write!(f, "timestamp in {zone}"),
            Self::Struct(_) => f.write_str("struct"),
            Self::List(item) => write!(f, "list of {item}"),
        }
    }
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i128),
    /// A double; also of 32 bits.
    Float(f64),
    /// A decimal, times ten to the power of its scale.
    Decimal(i128),
    /// A text.
    Text(String),
    /// Days since the Unix epoch.
    Date(i32),
    /// Microseconds since the Unix epoch.
    Instant(i64),
}

/// A value of a row, or of a window and key.
#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    /// A column: of the pipeline (table 0), or of the lookup that was joined as the n-th (from 1).
    Column {
        /// Which table.
        table: usize,
        /// Its name.
        name: String,
        /// Its type.
        kind: Kind,
    },
    /// The n-th key of the grouping.
    Key(usize, Kind),
    /// The value of the n-th call.
    Result(usize, Kind),
    /// A field of a record.
    Field {
        /// The record.
        of: Box<Term>,
        /// Which field.
        name: String,
        /// Its type.
        kind: Kind,
    },
    /// A constant.
    Literal(Value, Kind),
    /// An operator or function.
    Apply {
        /// Its SQL name: `=`, `AND`, `IS NULL`, `upper`.
        function: String,
        /// What it is applied to.
        arguments: Vec<Term>,
        /// Type of its value.
        kind: Kind,
    },
    /// CAST.
    Cast {
        /// Of what.
        of: Box<Term>,
        /// To which type.
        kind: Kind,
    },
    /// CASE.
    Case {
        /// Conditions and values, in order.
        branches: Vec<(Term, Term)>,
        /// ELSE.
        otherwise: Option<Box<Term>>,
        /// Type of the value.
        kind: Kind,
    },
}

/// A call of an aggregate function.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its SQL name.
    pub function: String,
    /// Its arguments.
    pub arguments: Vec<Term>,
    /// DISTINCT.
    pub distinct: bool,
    /// FILTER.
    pub filter: Option<Term>,
    /// ORDER BY, also within a group.
    pub order: Vec<Order>,
    /// Type of its value.
    pub kind: Kind,
}

/// One of the terms that rows are ordered by.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The term.
    pub by: Term,
    /// DESC.
    pub descending: bool,
    /// NULLS FIRST.
    pub nulls_first: bool,
}

/// A lookup that is joined on its unique key.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    /// Name of the lookup.
    pub lookup: String,
    /// LEFT instead of INNER.
    pub keeps_all: bool,
    /// What must be equal: of the rows before, and of the lookup.
    pub on: Vec<(Term, Term)>,
    /// What must be true beside.
    pub filter: Option<Term>,
}

/// A SELECT over one pipeline, without its windows.
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    /// Lookups in the order in which they are joined.
    pub joins: Vec<Join>,
    /// WHERE; all must be true.
    pub filters: Vec<Term>,
    /// GROUP BY.
    pub keys: Vec<Term>,
    /// The aggregate functions.
    pub calls: Vec<Call>,
    /// HAVING, over keys and results.
    pub having: Option<Term>,
    /// The SELECT list, over keys and results.
    pub list: Vec<(String, Term)>,
}

impl Term {
    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> &Kind {
        match self {
            Self::Column { kind, .. }
            | Self::Key(_, kind)
            | Self::Result(_, kind)
            | Self::Field { kind, .. }
            | Self::Literal(_, kind)
            | Self::Apply { kind, .. }
            | Self::Cast { kind, .. }
            | Self::Case { kind, .. } => kind,
        }
    }

    /// Visits the term and every term in it.
    pub fn visit<'t>(&'t self, visit: &mut dyn FnMut(&'t Self)) {
        visit(self);
        match self {
            Self::Column { .. } | Self::Key(..) | Self::Result(..) | Self::Literal(..) => {}
            Self::Field { of, .. } | Self::Cast { of, .. } => of.visit(visit),
            Self::Apply { arguments, .. } => arguments.iter().for_each(|argument| argument.visit(visit)),
            Self::Case { branches, otherwise, .. } => {
                for (condition, value) in branches {
                    condition.visit(visit);
                    value.visit(visit);
                }
                if let Some(otherwise) = otherwise {
                    otherwise.visit(visit);
                }
            }
        }
    }
}

impl Select {
    /// The columns of a table that rows are computed from, each once: the pipeline's with 0.
    #[must_use]
    pub fn columns_of(&self, table: usize) -> Vec<(String, Kind)> {
        let mut found: Vec<(String, Kind)> = Vec::new();
        let mut take = |term: &Term| {
            if let Term::Column { table: of, name, kind } = term
                && *of == table
                && found.iter().all(|(known, _)| known != name)
            {
                found.push((name.clone(), kind.clone()));
            }
        };
        let on = self.joins.iter().flat_map(|join| join.on.iter().flat_map(|(left, right)| [left, right]));
        let joins = on.chain(self.joins.iter().filter_map(|join| join.filter.as_ref()));
        let calls = self.calls.iter().flat_map(|call| {
            let order = call.order.iter().map(|order| &order.by);
            call.arguments.iter().chain(call.filter.as_ref()).chain(order)
        });
        joins.chain(&self.filters).chain(&self.keys).chain(calls).for_each(|term| term.visit(&mut take));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(table: usize, name: &str) -> Term {
        Term::Column { table, name: name.into(), kind: Kind::Text }
    }

    #[test]
    fn every_column_is_found_wherever_it_stands_and_once() {
        let upper = |of| Term::Apply { function: "upper".into(), arguments: vec![of], kind: Kind::Text };
        let case = Term::Case {
            branches: vec![(column(0, "a"), upper(column(0, "b")))],
            otherwise: Some(Box::new(Term::Cast { of: Box::new(column(0, "c")), kind: Kind::Text })),
            kind: Kind::Text,
        };
        let select = Select {
            joins: vec![Join {
                lookup: "l".into(),
                keeps_all: true,
                on: vec![(column(0, "d"), column(1, "key"))],
                filter: Some(column(1, "since")),
            }],
            filters: vec![column(0, "e"), column(0, "a")],
            keys: vec![case],
            calls: vec![Call {
                function: "first_value".into(),
                arguments: vec![Term::Field { of: Box::new(column(0, "f")), name: "x".into(), kind: Kind::Text }],
                distinct: false,
                filter: Some(column(0, "g")),
                order: vec![Order { by: column(0, "h"), descending: false, nulls_first: false }],
                kind: Kind::Text,
            }],
            having: None,
            list: vec![("k".into(), Term::Key(0, Kind::Text))],
        };
        let names = |table| select.columns_of(table).into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("");
        assert_eq!((names(0).as_str(), names(1).as_str()), ("deabcfgh", "keysince"));
    }
}

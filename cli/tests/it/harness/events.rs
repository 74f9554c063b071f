//! Events of the stories' contract, good ones and bad ones of every kind, from a seed.

/// The contract of every story.
pub const CONTRACT: &str = include_str!("event.odcs.yaml");

/// Event time of event 0, microseconds since the Unix epoch: 2024-03-01.
const BASE_US: i64 = 1_709_251_200_000_000;
/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// A generator of numbers that a seed repeats (splitmix64).
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Column values of a good event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// `id`
    pub id: String,
    /// `at`, microseconds since the Unix epoch
    pub at_us: i64,
    /// `value`
    pub value: i64,
    /// `note`
    pub note: Option<String>,
}

/// A message and what has to become of it. With both `row` and `reason` either is right: the contract
/// changes while it is on its way.
#[derive(Debug, Clone)]
pub struct Event {
    /// Message key.
    pub key: Option<Vec<u8>>,
    /// Payload.
    pub payload: Option<Vec<u8>>,
    /// The row that it may become.
    pub row: Option<Values>,
    /// The reason that it may be refused for.
    pub reason: Option<&'static str>,
}

impl Event {
    /// A good event; `days` is how many dates such events are spread over.
    pub fn good(rng: &mut Rng, days: u64) -> Self {
        let at_us = BASE_US + rng.below(days) as i64 * DAY_US + rng.below(DAY_US as u64) as i64;
        let note = (rng.below(3) > 0).then(|| format!("note \"{}\" ünïcode", rng.below(1_000)));
        Self::of(Values { id: format!("e-{:016x}", rng.next()), at_us, value: rng.below(1_000) as i64, note })
    }

    /// The event of these values.
    pub fn of(row: Values) -> Self {
        let at = jiff::Timestamp::from_microsecond(row.at_us).unwrap();
        let mut object = serde_json::json!({ "id": row.id, "at": at.to_string(), "value": row.value });
        if let Some(note) = &row.note {
            object["note"] = note.as_str().into();
        }
        let payload = object.to_string().into_bytes();
        Self { key: Some(row.id.clone().into_bytes()), payload: Some(payload), row: Some(row), reason: None }
    }

    /// A message that is refused for `reason`.
    pub fn bad(reason: &'static str, payload: impl Into<Vec<u8>>) -> Self {
        Self { key: None, payload: Some(payload.into()), row: None, reason: Some(reason) }
    }

    /// A key without a payload.
    pub fn tombstone() -> Self {
        Self { key: Some(b"gone".to_vec()), payload: None, row: None, reason: Some("tombstone") }
    }

    /// One of the ways in which real messages are broken.
    pub fn some_bad(rng: &mut Rng) -> Self {
        let n = rng.next();
        match n % 7 {
            0 => Self::bad("not_json", format!("{{\"id\": \"cut-{n:x}")),
            1 => Self::bad("missing_field", format!("{{\"id\": \"m-{n:x}\", \"value\": 1}}")),
            2 => Self::bad(
                "wrong_type",
                format!("{{\"id\": \"w-{n:x}\", \"at\": \"2024-03-01T00:00:00Z\", \"value\": \"1\"}}"),
            ),
            3 => Self::bad(
                "out_of_range",
                format!("{{\"id\": \"o-{n:x}\", \"at\": \"2024-03-01T00:00:00Z\", \"value\": 5000}}"),
            ),
            4 => Self::bad("not_utf8", [b"\xff\xfe".as_slice(), &n.to_le_bytes(), b"\xff"].concat()),
            5 => Self::bad(
                "duplicate_key",
                format!("{{\"id\": \"d-{n:x}\", \"at\": \"2024-03-01T00:00:00Z\", \"value\": 1, \"value\": 2}}"),
            ),
            _ => Self::tombstone(),
        }
    }

    /// A message that is broken in this way.
    pub fn some_bad_of(rng: &mut Rng, reason: &str) -> Self {
        loop {
            let event = Self::some_bad(rng);
            if event.reason == Some(reason) {
                return event;
            }
        }
    }

    /// `count` events, `bad_percent` of them bad.
    pub fn mix(rng: &mut Rng, count: usize, bad_percent: u64) -> Vec<Self> {
        (0..count)
            .map(|_| if rng.below(100) < bad_percent { Self::some_bad(rng) } else { Self::good(rng, 3) })
            .collect()
    }
}

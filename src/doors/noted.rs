//! Lists that the queue's door takes from, and what it has taken but not yet written down.

/// A list, and what its elements are.
#[derive(Clone, Debug)]
pub enum List {
    /// Payloads that users push.
    Jobs(String),
    /// Items that the leader pushes: see [`super::leader::item`].
    Due(&'static str),
}

impl List {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Jobs(name) => name,
            Self::Due(name) => name,
        }
    }
}

/// Where a ledger's executor notes what it is about to write down.
pub(super) fn accepting(ledger_id: &str) -> String {
    format!("executor:accepting:{ledger_id}")
}

/// A payload that has left its list but is not yet in the ledger.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub(super) receipt: String,
    /// The list's number as a digit from 1, then the payload.
    pub(super) value: Vec<u8>,
}

impl Noted {
    pub(super) fn list(&self) -> Option<usize> {
        let digit = self.value.first()?.checked_sub(b'1')?;
        Some(usize::from(digit))
    }

    pub(super) fn payload(&self) -> &[u8] {
        self.value.get(1..).unwrap_or_default()
    }
}

//! In what way an image's metadata is kept in order with its data.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// How a format that has metadata sees to it that no power cut leaves a pointer to what is not
/// there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Changes go to a journal beside the data: one host sync a flush.
    #[default]
    Journal,
    /// What is pointed to is made durable before what points to it: several host syncs a flush.
    Ordered,
    /// As [`Order::Ordered`], but where only the order matters, the host is asked for just that.
    Barrier,
    /// Nothing is made durable. A crash of the host may cost the whole image.
    Unsafe,
}

impl Order {
    /// All of them, by name, for messages.
    pub const KNOWN: &'static str = "journal, ordered, barrier, unsafe";
}

impl FromStr for Order {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "journal" => Ok(Self::Journal),
            "ordered" => Ok(Self::Ordered),
            "barrier" => Ok(Self::Barrier),
            "unsafe" => Ok(Self::Unsafe),
            _ => Err(Error::UnknownOrder {
                name: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Journal => "journal",
            Self::Ordered => "ordered",
            Self::Barrier => "barrier",
            Self::Unsafe => "unsafe",
        })
    }
}

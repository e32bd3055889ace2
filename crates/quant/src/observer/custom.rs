//! Observers that a program brings itself: a trait, and its place among the kinds and states of ours.
//!
//! A state is saved under the name of its observer. Only a program that has this observer can read it: a saved state stays text until
//! [`ObserverState::known_as`](super::ObserverState::known_as) is given the kind.

use std::any::Any;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{Choice, MergeError, ObserveError};
use crate::{QuantRange, Scheme};

/// An observer of one's own: the state of one value, and the range that it chooses. `Default` is the state in which nothing was observed. Settings are
/// constants of the type.
///
/// `docs/adding-an-observer.md` has an example.
pub trait Observer: Any + Clone + Default + fmt::Debug + PartialEq + Send + Sync {
    /// The name in reports and in files of statistics; none of ours.
    const NAME: &'static str;

    /// Takes in one batch, which is not empty.
    ///
    /// # Errors
    /// When a value is NaN or infinite. The state is then unchanged.
    fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError>;

    /// Adds what `other` has observed, as if this state had seen both streams.
    ///
    /// # Errors
    /// When the result would depend on the order of the batches.
    fn merge(&mut self, other: &Self) -> Result<(), MergeError>;

    /// The smallest and the largest value ever seen; `None` while nothing was observed.
    fn observed(&self) -> Option<(f32, f32)>;

    /// How many values were observed.
    fn count(&self) -> u64;

    /// The parameters for the integers of `range`; `None` while nothing was observed. By default those of the [observed](Observer::observed) range.
    fn choose(&self, range: QuantRange, scheme: Scheme, eps: f32) -> Option<Choice> {
        let (min, max) = self.observed()?;
        Some(Choice::new(min, max, range, scheme, eps))
    }

    /// The state as text, for a file of statistics.
    fn save(&self) -> String;

    /// The state that [`Observer::save`] wrote; `None` for any other text.
    fn load(text: &str) -> Option<Self>;
}

/// An [`Observer`] whose type is not known.
trait AnyObserver: fmt::Debug + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn copy(&self) -> Box<dyn AnyObserver>;
    fn equals(&self, other: &dyn AnyObserver) -> bool;
    fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError>;
    fn merge(&mut self, other: &dyn AnyObserver) -> Result<bool, MergeError>;
    fn observed(&self) -> Option<(f32, f32)>;
    fn count(&self) -> u64;
    fn choose(&self, range: QuantRange, scheme: Scheme, eps: f32) -> Option<Choice>;
    fn save(&self) -> String;
}

impl<T: Observer> AnyObserver for T {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn copy(&self) -> Box<dyn AnyObserver> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn AnyObserver) -> bool {
        other.as_any().downcast_ref::<T>() == Some(self)
    }

    fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError> {
        Observer::observe(self, values)
    }

    fn merge(&mut self, other: &dyn AnyObserver) -> Result<bool, MergeError> {
        match other.as_any().downcast_ref() {
            None => Ok(false),
            Some(other) => Observer::merge(self, other).map(|()| true),
        }
    }

    fn observed(&self) -> Option<(f32, f32)> {
        Observer::observed(self)
    }

    fn count(&self) -> u64 {
        Observer::count(self)
    }

    fn choose(&self, range: QuantRange, scheme: Scheme, eps: f32) -> Option<Choice> {
        Observer::choose(self, range, scheme, eps)
    }

    fn save(&self) -> String {
        Observer::save(self)
    }
}

/// The kind of an [`Observer`] of one's own. Two of one name are equal.
#[derive(Clone, Copy)]
pub struct CustomObserver {
    name: &'static str,
    new: fn() -> Box<dyn AnyObserver>,
    load: fn(&str) -> Option<Box<dyn AnyObserver>>,
}

impl CustomObserver {
    /// The kind of an observer.
    pub const fn of<T: Observer>() -> Self {
        Self {
            name: T::NAME,
            new: || Box::new(T::default()),
            load: |text| Some(Box::new(T::load(text)?)),
        }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl fmt::Debug for CustomObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CustomObserver").field(&self.name).finish()
    }
}

impl PartialEq for CustomObserver {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

#[derive(Serialize)]
struct Named<'a> {
    observer: &'a str,
}

impl Serialize for CustomObserver {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let observer = self.name;
        Named { observer }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CustomObserver {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(
            "an observer of a program can only be set by the program",
        ))
    }
}

/// What an [`Observer`] of one's own has seen, or the text that it was saved as.
#[derive(Debug)]
pub struct CustomState(State);

#[derive(Debug)]
enum State {
    Known(CustomObserver, Box<dyn AnyObserver>),
    Saved(Saved),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    observer: String,
    state: String,
}

impl CustomState {
    pub(super) fn new(kind: CustomObserver) -> Self {
        Self(State::Known(kind, (kind.new)()))
    }

    /// The state as one of an observer; `None` when another observer saved it, or it is damaged.
    pub(super) fn known_as(&self, kind: CustomObserver) -> Option<Self> {
        match &self.0 {
            State::Known(known, _) => (*known == kind).then(|| self.clone()),
            State::Saved(saved) if saved.observer == kind.name => {
                let state = (kind.load)(&saved.state)?;
                Some(Self(State::Known(kind, state)))
            }
            State::Saved(_) => None,
        }
    }

    /// The kind, unless the state is saved text.
    pub(super) fn kind(&self) -> Option<CustomObserver> {
        match &self.0 {
            State::Known(kind, _) => Some(*kind),
            State::Saved(_) => None,
        }
    }

    /// The name of the observer.
    pub fn name(&self) -> &str {
        match &self.0 {
            State::Known(kind, _) => kind.name,
            State::Saved(saved) => &saved.observer,
        }
    }

    fn known(&self) -> Option<&dyn AnyObserver> {
        match &self.0 {
            State::Known(_, state) => Some(&**state),
            State::Saved(_) => None,
        }
    }

    pub(super) fn observe(&mut self, values: &[f32]) -> Result<(), ObserveError> {
        match &mut self.0 {
            State::Known(_, state) => state.observe(values),
            State::Saved(saved) => Err(ObserveError::Unknown(saved.observer.clone())),
        }
    }

    /// Adds what another state of the same observer has seen. Returns whether it is one.
    pub(super) fn merge(&mut self, other: &Self) -> Result<bool, MergeError> {
        match (&mut self.0, other.known()) {
            (State::Known(_, state), Some(other)) => state.merge(other),
            _ => Ok(false),
        }
    }

    pub(super) fn observed(&self) -> Option<(f32, f32)> {
        self.known()?.observed()
    }

    pub(super) fn count(&self) -> u64 {
        self.known().map_or(0, AnyObserver::count)
    }

    pub(super) fn choose(&self, range: QuantRange, scheme: Scheme, eps: f32) -> Option<Choice> {
        self.known()?.choose(range, scheme, eps)
    }
}

impl Clone for CustomState {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            State::Known(kind, state) => State::Known(*kind, state.copy()),
            State::Saved(saved) => State::Saved(saved.clone()),
        })
    }
}

impl PartialEq for CustomState {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (State::Known(_, a), State::Known(_, b)) => a.equals(&**b),
            (State::Saved(a), State::Saved(b)) => a == b,
            _ => false,
        }
    }
}

impl Serialize for CustomState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let saved = match &self.0 {
            State::Known(kind, state) => Saved {
                observer: kind.name.to_owned(),
                state: state.save(),
            },
            State::Saved(saved) => saved.clone(),
        };
        saved.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CustomState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(State::Saved(Saved::deserialize(deserializer)?)))
    }
}

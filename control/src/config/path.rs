//! Where in a configuration something is: `switches.vs0.ports.vm1.static-macs[0].vlan`.

use std::fmt;

/// One step from a map or a list to what it holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Segment {
    /// By key.
    Key(String),
    /// By position, from 0.
    Index(usize),
}

/// The way from the root of a configuration to a place in it. The text form is for people: keys with a dot, a bracket,
/// a quote or a space in them are quoted.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Path(Vec<Segment>);

impl Path {
    /// The root.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// The way through these keys.
    pub fn keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self(keys.into_iter().map(|key| Segment::Key(key.to_owned())).collect())
    }

    /// One key further.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut segments = self.0.clone();
        segments.push(Segment::Key(key.to_owned()));
        Self(segments)
    }

    /// One position further.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut segments = self.0.clone();
        segments.push(Segment::Index(index));
        Self(segments)
    }

    /// Its steps.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }
}

impl FromIterator<Segment> for Path {
    fn from_iter<T: IntoIterator<Item = Segment>>(segments: T) -> Self {
        Self(segments.into_iter().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) => {
                    if i > 0 {
                        f.write_str(".")?;
                    }
                    let plain = !key.is_empty()
                        && key
                            .chars()
                            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ':' | '@' | '+'));
                    if plain {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_would_mislead_are_quoted() {
        let path = Path::keys(["switches", "vs0", "ports", "a.b"])
            .key("static-macs")
            .index(0)
            .key("vlan");
        assert_eq!(
            path.to_string(),
            r#"switches.vs0.ports."a.b".static-macs[0].vlan"#
        );
        assert_eq!(Path::root().to_string(), "");
    }
}

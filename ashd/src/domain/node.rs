//! Which daemon it is, among all that share an object store.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// So many of those before are remembered.
const BEFORE: usize = 16;

/// A daemon, and those from whose backups it was restored. As text: one in each line, itself first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// This one. No other has it.
    pub id: Uuid,
    /// Those of before, newest first.
    pub before: Vec<Uuid>,
}

/// Text that names no daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it does not say which server this is; move it away, and a new one is made")]
pub struct NotNode;

impl Node {
    /// One that has never been.
    pub fn fresh() -> Node {
        Node { id: Uuid::new_v4(), before: vec![] }
    }

    /// One that goes on with what a backup of this one holds, while this one may still live.
    #[must_use]
    pub fn successor(self) -> Node {
        let before = std::iter::once(self.id).chain(self.before).take(BEFORE).collect();
        Node { before, ..Node::fresh() }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.id)?;
        self.before.iter().try_for_each(|id| writeln!(f, "{id}"))
    }
}

impl FromStr for Node {
    type Err = NotNode;

    fn from_str(text: &str) -> Result<Node, NotNode> {
        let ids: Result<Vec<_>, _> = text.trim().lines().map(Uuid::try_parse).collect();
        let mut ids = ids.map_err(|_| NotNode)?.into_iter();
        let id = ids.next().ok_or(NotNode)?;
        Ok(Node { id, before: ids.take(BEFORE).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut node = Node::fresh();
        for number in 0..BEFORE + 2 {
            assert_eq!(node.before.len(), number.min(BEFORE));
            assert_eq!(node.to_string().parse(), Ok(node.clone()));
            let next = node.clone().successor();
            assert_eq!((next.before[0], next.id == node.id), (node.id, false));
            node = next;
        }
        let alone = format!("{}", node.id);
        assert_eq!(alone.parse(), Ok(Node { id: node.id, before: vec![] }));
    }

    #[test]
    fn what_names_none_is_refused() {
        for text in ["", "\n", "one", "00000000-0000-0000-0000-000000000000\none"] {
            assert_eq!(text.parse::<Node>(), Err(NotNode), "{text}");
        }
    }
}

//! The Merkle tree over a ledger's transactions, shaped as CCF shapes it: no prefixes, the left subtree
//! the largest power of two, leaf 0 is 32 zero bytes, so that transaction n is leaf n and no path is empty.
//!
//! Inner nodes of complete subtrees are kept, so a root or a path of any earlier size costs O(log² n).

use crate::digest::sha256;

/// SHA-256.
pub(crate) type Digest = [u8; 32];

/// Which side of the path a sibling stands on, and its hash. Written leaf to root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sibling {
    /// The sibling is the left child.
    pub(crate) left: bool,
    /// Its hash.
    pub(crate) hash: Digest,
}

/// Append-only Merkle tree.
pub(crate) struct Tree {
    /// `levels[k][i]` is the hash of leaves `i << k .. (i + 1) << k`.
    levels: Vec<Vec<Digest>>,
}

impl Tree {
    /// A tree that holds CCF's zero leaf.
    pub(crate) fn new() -> Self {
        Self { levels: vec![vec![[0; 32]]] }
    }

    /// Adds the next leaf.
    pub(crate) fn push(&mut self, leaf: Digest) {
        self.levels[0].push(leaf);
        let mut level = 0;
        while self.levels[level].len().is_multiple_of(2) {
            let nodes = &self.levels[level];
            let parent = hash_pair(&nodes[nodes.len() - 2], &nodes[nodes.len() - 1]);
            level += 1;
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(parent);
        }
    }

    /// The root over the first `size` leaves; `size` is at least 1.
    pub(crate) fn root(&self, size: u64) -> Digest {
        self.subtree(0, size)
    }

    /// The siblings of leaf `leaf` in the tree of the first `size` leaves.
    pub(crate) fn path(&self, leaf: u64, size: u64) -> Vec<Sibling> {
        let mut path = Vec::new();
        let (mut start, mut length) = (0, size);
        while length > 1 {
            let left = left_size(length);
            if leaf < start + left {
                path.push(Sibling { left: false, hash: self.subtree(start + left, length - left) });
                length = left;
            } else {
                path.push(Sibling { left: true, hash: self.subtree(start, left) });
                start += left;
                length -= left;
            }
        }
        path.reverse();
        path
    }

    fn subtree(&self, start: u64, length: u64) -> Digest {
        if length.is_power_of_two() {
            let level = length.trailing_zeros();
            return self.levels[level as usize][(start >> level) as usize];
        }
        let left = left_size(length);
        hash_pair(&self.subtree(start, left), &self.subtree(start + left, length - left))
    }
}

/// SHA-256 over the concatenation of two hashes.
pub(crate) fn hash_pair(left: &Digest, right: &Digest) -> Digest {
    let mut both = [0; 64];
    both[..32].copy_from_slice(left);
    both[32..].copy_from_slice(right);
    sha256(&both)
}

/// The largest power of two below `length`, which is at least 2.
fn left_size(length: u64) -> u64 {
    length.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, without any kept node.
    fn naive(leaves: &[Digest]) -> Digest {
        match leaves {
            [one] => *one,
            _ => {
                let mut left = 1;
                while left * 2 < leaves.len() {
                    left *= 2;
                }
                hash_pair(&naive(&leaves[..left]), &naive(&leaves[left..]))
            }
        }
    }

    #[test]
    fn every_path_of_every_size_leads_to_the_naive_root() {
        let mut tree = Tree::new();
        let mut leaves = vec![[0; 32]];
        let mut right_siblings = 0;
        for n in 1u8..70 {
            let leaf = sha256(&[n]);
            tree.push(leaf);
            leaves.push(leaf);
        }
        for size in 1..=leaves.len() {
            let root = naive(&leaves[..size]);
            assert_eq!(tree.root(size as u64), root, "root of {size} leaves");
            for (index, leaf) in leaves[..size].iter().enumerate() {
                let path = tree.path(index as u64, size as u64);
                right_siblings += path.iter().filter(|sibling| !sibling.left).count();
                let folded = path.iter().fold(*leaf, |acc, sibling| match sibling.left {
                    true => hash_pair(&sibling.hash, &acc),
                    false => hash_pair(&acc, &sibling.hash),
                });
                assert_eq!(folded, root, "leaf {index} of {size}");
            }
        }
        assert!(right_siblings > 1000);
    }
}

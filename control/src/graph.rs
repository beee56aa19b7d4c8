//! The edges as numbers, for the searches: shortest paths one after the other (Yen), and paths
//! without a common node (maximum flow).

use std::collections::BTreeMap;

use km_core::{ids::ClusterId, route::MAX_HOPS};
use pathfinding::directed::{
    edmonds_karp::{SparseCapacity, edmonds_karp},
    yen::yen,
};

use crate::component::Pair;

/// A path by its clusters, both ends included, with its cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) nodes: Vec<ClusterId>,
    pub(crate) cost: u64,
}

pub(crate) struct Graph {
    nodes: Vec<ClusterId>,
    near: Vec<Vec<(usize, u64)>>,
}

impl Graph {
    pub(crate) fn new<'a>(edges: impl Iterator<Item = (&'a Pair, u64)> + Clone) -> Self {
        let mut index: BTreeMap<&ClusterId, usize> = BTreeMap::new();
        for (pair, _) in edges.clone() {
            let (a, b) = pair.ends();
            index.insert(a, 0);
            index.insert(b, 0);
        }
        let nodes: Vec<ClusterId> = index.keys().map(|name| (*name).clone()).collect();
        index.values_mut().enumerate().for_each(|(at, place)| *place = at);
        let mut near = vec![Vec::new(); nodes.len()];
        for (pair, cost) in edges {
            let (a, b) = (index[pair.ends().0], index[pair.ends().1]);
            near[a].push((b, cost));
            near[b].push((a, cost));
        }
        Self { nodes, near }
    }

    fn at(&self, name: &ClusterId) -> Option<usize> {
        self.nodes.binary_search(name).ok()
    }

    fn named(&self, path: &[usize]) -> Vec<ClusterId> {
        path.iter().map(|node| self.nodes[*node].clone()).collect()
    }

    /// What the way along `nodes` costs; `None` when there is no such way.
    pub(crate) fn cost(&self, nodes: &[ClusterId]) -> Option<u64> {
        let steps = nodes.windows(2).map(|step| {
            let (a, b) = (self.at(&step[0])?, self.at(&step[1])?);
            self.near[a].iter().find(|(to, _)| *to == b).map(|(_, cost)| *cost)
        });
        steps.sum()
    }

    /// Up to `most` loop-free paths, the cheapest first.
    pub(crate) fn shortest(&self, from: &ClusterId, to: &ClusterId, most: usize) -> Vec<Path> {
        let (Some(from), Some(to)) = (self.at(from), self.at(to)) else { return Vec::new() };
        let near = |node: &usize| self.near[*node].iter().copied();
        let mut found = yen(&from, near, |node| *node == to, most);
        found.sort_by(|(a, a_cost), (b, b_cost)| {
            a_cost.cmp(b_cost).then(a.len().cmp(&b.len())).then(a.cmp(b))
        });
        let fits = |(path, _): &(Vec<usize>, u64)| path.len() <= MAX_HOPS + 1;
        let named = |(path, cost): (Vec<usize>, u64)| Path { nodes: self.named(&path), cost };
        found.into_iter().filter(fits).map(named).collect()
    }

    /// As many paths without a common middle node as there are, up to `most`; of two or more.
    /// Which ones does not depend on costs.
    pub(crate) fn disjoint(&self, from: &ClusterId, to: &ClusterId, most: usize) -> Vec<Path> {
        let (Some(from), Some(to)) = (self.at(from), self.at(to)) else { return Vec::new() };
        // Each node is an entrance (2n) and an exit (2n + 1) with room for one path between.
        let count = self.nodes.len();
        let source = 2 * count;
        let mut room = vec![((source, 2 * from + 1), most as i32)];
        let between = (0..count).filter(|node| *node != from && *node != to);
        room.extend(between.map(|node| ((2 * node, 2 * node + 1), 1)));
        for (a, near) in self.near.iter().enumerate() {
            room.extend(near.iter().map(|(b, _)| ((2 * a + 1, 2 * b), 1)));
        }
        let vertices: Vec<usize> = (0..=source).collect();
        let (flows, _, _) =
            edmonds_karp::<_, _, _, SparseCapacity<_>>(&vertices, &source, &(2 * to), room);
        let mut next: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for ((a, b), amount) in flows {
            if amount > 0 && a % 2 == 1 && a != source {
                next.entry(a / 2).or_default().push(b / 2);
            }
        }
        let mut paths: Vec<Path> = Vec::new();
        for first in next.remove(&from).unwrap_or_default() {
            let mut nodes = vec![from, first];
            while let Some(last) = nodes.last().filter(|last| **last != to) {
                match next.remove(last).and_then(|mut ways| ways.pop()) {
                    Some(step) => nodes.push(step),
                    None => break,
                }
            }
            let nodes = self.named(&nodes);
            if let Some(cost) = self.cost(&nodes)
                && nodes.last() == self.nodes.get(to)
                && nodes.len() <= MAX_HOPS + 1
            {
                paths.push(Path { nodes, cost });
            }
        }
        paths.sort_by(|a, b| a.cost.cmp(&b.cost).then_with(|| a.nodes.cmp(&b.nodes)));
        match paths.len() {
            2.. => paths,
            _ => Vec::new(),
        }
    }
}

//! Which clusters are neighbours.

use std::collections::BTreeSet;

use crate::{plan::Shape, rng::Rng};

/// Pairs of neighbours, the lower number first.
pub(crate) fn links(shape: Shape, nodes: usize, rng: &mut Rng) -> Vec<(usize, usize)> {
    let mut links = BTreeSet::new();
    let mut join = |a: usize, b: usize| {
        if a != b && a < nodes && b < nodes {
            links.insert((a.min(b), a.max(b)));
        }
    };
    match shape {
        Shape::Ring => (0..nodes).for_each(|at| join(at, (at + 1) % nodes)),
        Shape::Mesh => {
            let width = (nodes as f64).sqrt() as usize;
            let rows = nodes.div_ceil(width);
            for at in 0..nodes {
                let (row, column) = (at / width, at % width);
                let right = row * width + (column + 1) % width;
                let below = ((row + 1) % rows) * width + column;
                // The last row may be short; its open ends wrap to the first cluster.
                join(at, if right < nodes { right } else { 0 });
                join(at, if below < nodes { below } else { column });
            }
        }
        Shape::Backbone => {
            let half = nodes / 2;
            for at in 0..nodes.saturating_sub(1) {
                if at + 1 != half {
                    join(at, at + 1);
                }
            }
            (0..half).step_by(4).for_each(|at| join(at, half + at));
            join(half - 1, nodes - 1);
        }
        Shape::Random => {
            (1..nodes).for_each(|at| join(at, rng.below(at)));
            (0..nodes / 2).for_each(|_| join(rng.below(nodes), rng.below(nodes)));
        }
    }
    links.into_iter().collect()
}

//! Which instance of an attribute is which: the Attribute Index of 1.x. An index is never given
//! anew while later instances live; deletions leave gaps.

use kmip::attribute::{AttributeRef, Attributes, Instance};

/// The indices to keep with `rest`; none when they are those that counting gives.
pub(crate) fn of(rest: &Attributes) -> Vec<i32> {
    let counted = counted(rest);
    let found = || rest.list.iter().zip(&counted).map(|(i, count)| i.index.unwrap_or(*count));
    if found().eq(counted.iter().copied()) { Vec::new() } else { found().collect() }
}

/// Gives each of `rest` its index; `kept` is what [`of`] said.
pub(crate) fn apply(rest: &mut Attributes, kept: &[i32]) {
    let counted = counted(rest);
    let numbers = if kept.len() == counted.len() { kept } else { &counted };
    for (instance, number) in rest.list.iter_mut().zip(numbers) {
        instance.index = Some(*number);
    }
}

/// As answers tell it: with its number where there may be several. (The first may go without, but
/// PyKMIP and those who learned from it read the number of each.)
pub(crate) fn told(instance: Instance) -> Instance {
    let several = instance.attribute.kind().is_some_and(|kind| kind.is_multiple());
    Instance { index: instance.index.filter(|index| several || *index != 0), ..instance }
}

/// The index of one more instance of `key`.
pub(crate) fn next(rest: &Attributes, key: &AttributeRef) -> i32 {
    let taken = rest.list.iter().filter(|instance| instance.attribute.key() == *key);
    taken.filter_map(|instance| instance.index).max().map_or(0, |last| last.saturating_add(1))
}

fn counted(rest: &Attributes) -> Vec<i32> {
    let mut counts: Vec<(AttributeRef, i32)> = Vec::new();
    let mut number = |key: AttributeRef| match counts.iter_mut().find(|(seen, _)| *seen == key) {
        Some((_, count)) => {
            *count += 1;
            *count
        }
        None => {
            counts.push((key, 0));
            0
        }
    };
    rest.iter().map(|attribute| number(attribute.key())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmip::attribute::{Attribute, Name};

    #[test]
    fn a_deletion_leaves_the_other_indices_as_they_are() {
        let name = |text: &str| Attribute::Name(Name::text(text));
        let mut rest: Attributes =
            [name("a"), Attribute::Comment("c".into()), name("b"), name("d")].into_iter().collect();
        apply(&mut rest, &[]);
        assert!(of(&rest).is_empty());
        rest.list.remove(2);
        let kept = of(&rest);
        assert_eq!(kept, [0, 0, 2]);
        let mut read: Attributes = rest.iter().cloned().collect();
        apply(&mut read, &kept);
        assert_eq!(read, rest);
        assert_eq!(next(&read, &name("x").key()), 3);
    }
}

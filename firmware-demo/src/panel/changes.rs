//! What of a picture is new.

/// Part of a picture; all four edges belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) right: usize,
    pub(super) bottom: usize,
}

/// Where `new` differs from `old`, both in rows of `width`: an area for each run of rows that changed, from the first
/// column that changed in one of them to the last. All of it where nothing is known of the old.
pub(super) fn changes<T: PartialEq>(old: Option<&[T]>, new: &[T], width: usize) -> Vec<Area> {
    let mut areas: Vec<Area> = Vec::new();
    for (row, line) in new.chunks_exact(width).enumerate() {
        let columns = match old.and_then(|old| old.get(row * width..)?.get(..width)) {
            None => Some((0, width - 1)),
            Some(old) => {
                let differs = |column: &usize| old[*column] != line[*column];
                let first = (0..width).find(differs);
                first.zip((0..width).rfind(differs))
            }
        };
        let Some((left, right)) = columns else {
            continue;
        };
        match areas.last_mut() {
            Some(area) if area.bottom + 1 == row => {
                area.left = area.left.min(left);
                area.right = area.right.max(right);
                area.bottom = row;
            }
            _ => areas.push(Area {
                left,
                top: row,
                right,
                bottom: row,
            }),
        }
    }
    areas
}

#[cfg(test)]
mod tests {
    use super::{Area, changes};

    fn area(left: usize, top: usize, right: usize, bottom: usize) -> Area {
        Area {
            left,
            top,
            right,
            bottom,
        }
    }

    #[test]
    fn unknown_is_all_new() {
        assert_eq!(changes(None, &[0; 12], 4), [area(0, 0, 3, 2)]);
    }

    #[test]
    fn same_is_nothing() {
        assert_eq!(changes(Some(&[7; 12]), &[7; 12], 4), []);
    }

    #[test]
    fn neighbouring_rows_are_one_area_and_others_are_not() {
        let old = b"....................";
        let new = b".x....x.........x..x";
        assert_eq!(
            changes(Some(&old[..]), new, 4),
            [area(1, 0, 2, 1), area(0, 4, 3, 4)]
        );
        // The later row begins further left and ends before the first one.
        let new = b"...xx...............";
        assert_eq!(changes(Some(&old[..]), new, 4), [area(0, 0, 3, 1)]);
    }
}

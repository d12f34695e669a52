//! Finds the changed areas of a picture.

/// Part of a picture. All four bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) right: usize,
    pub(super) bottom: usize,
}

/// Compares two pictures with rows of `width` values. Returns one area for each run of changed rows, from the leftmost
/// changed column to the rightmost; the whole picture if `old` is `None`.
pub(super) fn changed_areas<T: PartialEq>(old: Option<&[T]>, new: &[T], width: usize) -> Vec<Area> {
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
    use super::{Area, changed_areas};

    fn area(left: usize, top: usize, right: usize, bottom: usize) -> Area {
        Area {
            left,
            top,
            right,
            bottom,
        }
    }

    #[test]
    fn without_an_old_picture_everything_changed() {
        assert_eq!(changed_areas(None, &[0; 12], 4), [area(0, 0, 3, 2)]);
    }

    #[test]
    fn identical_pictures_have_no_changed_area() {
        assert_eq!(changed_areas(Some(&[7; 12]), &[7; 12], 4), []);
    }

    #[test]
    fn only_adjacent_rows_share_an_area() {
        let old = b"....................";
        let new = b".x....x.........x..x";
        assert_eq!(
            changed_areas(Some(&old[..]), new, 4),
            [area(1, 0, 2, 1), area(0, 4, 3, 4)]
        );
        // The second row starts further left and ends before the first one.
        let new = b"...xx...............";
        assert_eq!(changed_areas(Some(&old[..]), new, 4), [area(0, 0, 3, 1)]);
    }
}

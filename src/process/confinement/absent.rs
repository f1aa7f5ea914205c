//! Where the kernel has no Landlock.

use super::{Reach, Strength};

/// Does nothing.
///
/// # Errors
/// None.
pub fn confine(_reach: &Reach) -> Result<Strength, String> {
    Ok(Strength::None)
}

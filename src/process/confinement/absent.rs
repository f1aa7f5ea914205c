//! Where the kernel has no Landlock.

use super::{ConfinementRules, ConfinementStrength};

/// Does nothing.
///
/// # Errors
/// None.
pub fn confine(_rules: &ConfinementRules) -> Result<ConfinementStrength, String> {
    Ok(ConfinementStrength::None)
}

use zeroize::Zeroize;

/// Overwrites memory that held a text with zeros, and the compiler cannot leave it out.
pub(crate) fn overwrite(bytes: &mut [u8]) {
    // In words, because a byte at a time takes a twentieth of the time of a text.
    let (before, words, behind) = bytemuck::pod_align_to_mut::<u8, u64>(bytes);
    before.zeroize();
    words.zeroize();
    behind.zeroize();
}

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <filesystem>

/// Draws JPEG files to learn from: `root`/checks/0.jpg, `root`/rings/0.jpg, `root`/stripes/0.jpg
/// and so on, `per_class` of each, in sizes, colours and widths of their own. The same number gives
/// the same files.
///
/// Throws: `std::runtime_error` naming the file that cannot be written, and why.
void draw_pictures(const std::filesystem::path& root, int per_class);

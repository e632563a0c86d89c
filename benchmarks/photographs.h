// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

namespace bench {

/// Writes `count` JPEG files of 500x375 pixels into ten class folders below `root`. They are noise
/// whose amplitude falls with frequency as that of photographs does, so that they compress and
/// decode like them; the same bytes every time.
/// Throws: `std::runtime_error` naming the file that cannot be written.
void make_photographs(const std::string& root, std::int64_t count, int quality);

}  // namespace bench

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "support/reader_test_support.h"
#include "unit/data/readers/peak_memory.h"

namespace lockstep::data {

/// Tests of files of a few bytes whose headers claim gigabytes.
class HeaderClaims : public ReaderTest {
 protected:
  static void expect_cheap_error(const std::function<void()>& read, const std::string& part) {
    expect_error(read, {part});
    EXPECT_LE(peak_bytes_of(read), kMostForAnError) << part;
  }
};

}  // namespace lockstep::data

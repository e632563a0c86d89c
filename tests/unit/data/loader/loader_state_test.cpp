// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/data/loader/loader_state.h>

#include <algorithm>
#include <cctype>
#include <limits>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

LoaderState some_state() {
  return {7, 3, 123456, 1000000000, 0xFEDCBA9876543210U};
}

TEST(LoaderState, ComesBackFromItsBytes) {
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  for (const auto& state :
       {LoaderState{}, some_state(),
        LoaderState{kMost, std::numeric_limits<std::int64_t>::max(), kMost, kMost, kMost}}) {
    const auto bytes = state.to_bytes();
    EXPECT_LE(bytes.size(), LoaderState::kMaxBytes);
    EXPECT_EQ(LoaderState::from_bytes(bytes), state);
    EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](unsigned char c) {
      return std::isgraph(c) != 0 && c != '"' && c != '\'' && c != '\\';
    })) << bytes;
  }
}

// A checkpoint of today must be readable for ever. The checksum is Python's zlib.crc32.
TEST(LoaderState, TheFormatIsPinned) {
  EXPECT_EQ(some_state().to_bytes(),
            "lockstep-loader-1:0000000000000007000000000000000300"
            "0000000001e240000000003b9aca00fedcba9876543210:47ceb7d6");
}

TEST(LoaderState, NoticesEveryDamagedByte) {
  const auto good = some_state().to_bytes();
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const char c : {'0', '1', 'a', 'A', 'g', ' ', '\0', '\x80', ':'}) {
      if (good[i] == c) continue;
      auto bad = good;
      bad[i] = c;
      EXPECT_THROW(static_cast<void>(LoaderState::from_bytes(bad)), c10::Error) << i << ' ' << c;
    }
    EXPECT_THROW(static_cast<void>(LoaderState::from_bytes(good.substr(0, i))), c10::Error);
  }
}

TEST(LoaderState, SaysWhatIsWrong) {
  const auto good = some_state().to_bytes();
  const auto fails = [](const std::string& bytes, const std::string& text) {
    const auto message = message_of([&] { static_cast<void>(LoaderState::from_bytes(bytes)); });
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  fails("", "no state of a loader");
  fails("hello", "no state of a loader");
  fails("lockstep-loader-2" + good.substr(17), "of another version than 1");
  fails(good + "0", "expected " + std::to_string(good.size()) + " bytes, found");
  fails(good.substr(0, 50), "found 50; the state is damaged");
  auto bad = good;
  bad[20] = 'x';
  fails(bad, "at byte 18: expected 16 digits");
  bad = good;
  bad[20] = 'A';
  fails(bad, "at byte 18: expected 16 digits");
  bad = good;
  bad[20] = '5';
  fails(bad, "the checksum does not fit");
  bad = good;
  bad[good.size() - 9] = '-';
  fails(bad, "expected a colon");
  // Its checksum is right: whoever wrote it was no to_bytes.
  fails(
      "lockstep-loader-1:000000000000000780000000000000000000000000"
      "00000100000000000000020000000000000003:e2f4a473",
      "the epoch is negative");
  auto negative = some_state();
  negative.epoch = -1;
  const auto message = message_of([&] { static_cast<void>(negative.to_bytes()); });
  EXPECT_NE(message.find("epoch is -1"), std::string::npos) << message;
}

}  // namespace
}  // namespace lockstep::data

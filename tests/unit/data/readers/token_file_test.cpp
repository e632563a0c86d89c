// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/readers/token_file.h>

#include "support/reader_test_support.h"

namespace lockstep::data {
namespace {

using Tokens = ReaderTest;

ByteVector llmc(std::uint32_t magic, std::uint32_t version, std::uint32_t count) {
  ByteVector bytes;
  for (const auto value : {magic, version, count}) append(bytes, little(value, 4));
  bytes.resize(1024);
  return bytes;
}

ByteVector tokens(std::uint64_t count, std::size_t width, std::uint64_t factor = 3) {
  ByteVector bytes;
  for (std::uint64_t i = 0; i < count; ++i) append(bytes, little(i * factor, width));
  return bytes;
}

ByteVector joined(ByteVector first, const ByteVector& second) {
  append(first, second);
  return first;
}

torch::Tensor range(std::int64_t first, std::int64_t count, std::int64_t factor = 3) {
  return torch::arange(first, first + count, torch::kLong) * factor;
}

TokenFileOptions block(std::int64_t tokens) {
  return TokenFileOptions().block(tokens);
}

TEST_F(Tokens, ReadsBothFormatsOfLlmc) {
  const auto gpt2 = write("gpt2.bin", joined(llmc(20240520, 1, 21), tokens(21, 2, 3000)));
  const TokenFile small(gpt2, block(4));
  EXPECT_EQ(small.tokens(), 21U);
  ASSERT_EQ(small.size(), 5U);
  for (std::int64_t i = 0; i < 5; ++i) {
    const auto sample = small.get(static_cast<std::size_t>(i));
    EXPECT_TRUE(torch::equal(sample.data, range(4 * i, 4, 3000)));
    EXPECT_TRUE(torch::equal(sample.target, range(4 * i + 1, 4, 3000)));
  }
  const auto llama = write("llama3.bin", joined(llmc(20240801, 7, 9), tokens(9, 4, 100000000)));
  const TokenFile large(llama, block(3));
  ASSERT_EQ(large.size(), 2U);
  EXPECT_TRUE(torch::equal(large.get(1).data, range(3, 3, 100000000)));
  EXPECT_TRUE(torch::equal(large.get(1).target, range(4, 3, 100000000)));
  EXPECT_EQ(large.describe(1), llama + ": tokens 3 to 6 from byte 1036");
  expect_writes_in_place(small, 2);
  expect_writes_in_place(large, 1);
  expect_same_in_workers(small);
}

TEST_F(Tokens, ReadsBareFiles) {
  const auto two = write("two", tokens(10, 2));
  const TokenFile shorts(two, block(3).format(TokenFormat::BareUInt16));
  EXPECT_EQ(shorts.tokens(), 10U);
  EXPECT_EQ(shorts.size(), 3U);
  EXPECT_TRUE(torch::equal(shorts.get(2).target, range(7, 3)));
  const auto four = write("four", tokens(10, 4, 400000000));
  const TokenFile longs(four, block(9).format(TokenFormat::BareUInt32));
  EXPECT_EQ(longs.size(), 1U);
  EXPECT_TRUE(torch::equal(longs.get(0).target, range(1, 9, 400000000)));
  // The largest tokens are not negative.
  const auto high = write("high", ByteVector(16, 0xFF));
  EXPECT_EQ(TokenFile(high, block(1).format(TokenFormat::BareUInt16)).get(0).data.item<int64_t>(),
            65535);
  EXPECT_EQ(TokenFile(high, block(1).format(TokenFormat::BareUInt32)).get(0).data.item<int64_t>(),
            4294967295);
}

TEST_F(Tokens, WindowsMayOverlapOrLeaveGaps) {
  const auto file = write("file", tokens(12, 2));
  const auto with = [&](std::int64_t length, std::int64_t stride) {
    return TokenFile(file, block(length).stride(stride).format(TokenFormat::BareUInt16));
  };
  const auto every = with(4, 1);
  ASSERT_EQ(every.size(), 8U);
  EXPECT_TRUE(torch::equal(every.get(7).data, range(7, 4)));
  EXPECT_TRUE(torch::equal(every.get(7).target, range(8, 4)));
  EXPECT_EQ(with(11, 1).size(), 1U);
  EXPECT_EQ(with(4, 3).size(), 3U);
  EXPECT_TRUE(torch::equal(with(4, 3).get(2).target, range(7, 4)));
  EXPECT_EQ(with(2, 5).size(), 2U);
  EXPECT_EQ(with(2, std::numeric_limits<std::int64_t>::max()).size(), 1U);
}

TEST_F(Tokens, NamesWhatIsWrongAndWhere) {
  const auto opens = [this](const std::string& name, const ByteVector& bytes,
                            TokenFileOptions options) {
    const auto file = write(name, bytes);
    return [=] { TokenFile(file, options); };
  };
  expect_error([this] { TokenFile(path("missing"), block(1)); }, {"missing", "cannot be opened"});
  expect_error(opens("empty", {}, block(1)), {"at byte 0", "llm.c's header", "end of the file"});
  expect_error(opens("cut_header", ByteVector(1000, 7), block(1)),
               {"at byte 1000", "llm.c's header"});
  expect_error(opens("magic", joined(llmc(5, 1, 4), tokens(4, 2)), block(1)),
               {"at byte 0", "20240520 or 20240801", "found 5"});
  expect_error(opens("version", joined(llmc(20240520, 7, 4), tokens(4, 2)), block(1)),
               {"at byte 4", "version 1", "found 7"});
  expect_error(opens("version3", joined(llmc(20240801, 1, 4), tokens(4, 4)), block(1)),
               {"at byte 4", "version 7", "found 1"});
  expect_error(opens("cut", joined(llmc(20240520, 1, 5), tokens(4, 2)), block(1)),
               {"at byte 1032", "(10 bytes from offset 1024)", "the end of the file"});
  expect_error(opens("long", joined(llmc(20240520, 1, 4), tokens(5, 2)), block(1)),
               {"at byte 1032", "the end of the file", "2 more bytes"});
  expect_error(opens("negative", joined(llmc(20240520, 1, 0x80000000U), tokens(5, 2)), block(1)),
               {"at byte 8", "found -2147483648"});
  expect_error(opens("huge", joined(llmc(20240801, 7, 0x7FFFFFFFU), tokens(5, 2)), block(1)),
               {"8589934588 bytes from offset 1024"});
  expect_error(opens("none", llmc(20240520, 1, 0), block(1)), {"more than 1 tokens", "found 0"});
  expect_error(opens("few", joined(llmc(20240520, 1, 4), tokens(4, 2)), block(4)),
               {"more than 4 tokens, for one window", "found 4"});
  const auto bare = TokenFormat::BareUInt16;
  expect_error(opens("odd", {1, 2, 3}, block(1).format(bare)),
               {"at byte 2", "tokens of 2 bytes", "found 1 bytes"});
  expect_error(opens("bare_empty", {}, block(1).format(bare)), {"more than 1 tokens", "found 0"});
  const auto good = write("good", tokens(9, 2));
  expect_error([&] { TokenFile(good, block(0).format(bare)); }, {"block is 0"});
  expect_error([&] { TokenFile(good, block(-3).format(bare)); }, {"block is -3"});
  expect_error([&] { TokenFile(good, block(1LL << 62).format(bare)); }, {"it must be from 1 to"});
  expect_error([&] { TokenFile(good, block(1).stride(-1).format(bare)); }, {"stride is -1"});
  expect_error([&] { TokenFile(good, block(1).vocabulary(-1).format(bare)); },
               {"vocabulary is -1"});
  const TokenFile file(good, block(4).format(bare));
  expect_error([&] { static_cast<void>(file.get(2)); }, {"index 2 is not below the size 2"});
}

TEST_F(Tokens, TokensMustBeInTheVocabulary) {
  const auto file = write("file", tokens(9, 2));  // 0, 3, ..., 24
  const auto with = [&](std::int64_t vocabulary) {
    return TokenFile(file, block(4).vocabulary(vocabulary).format(TokenFormat::BareUInt16));
  };
  static_cast<void>(with(25).get(1));
  expect_error([&] { static_cast<void>(with(24).get(1)); },
               {path("file"), "at byte 16", "a token below 24", "found 24"});
  expect_error([&] { static_cast<void>(with(12).get(0)); }, {"at byte 8", "found 12"});
  static_cast<void>(with(13).get(0));
}

}  // namespace
}  // namespace lockstep::data

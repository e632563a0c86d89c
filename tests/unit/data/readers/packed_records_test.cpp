// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/readers/packed_records.h>
#include <sys/resource.h>
#include <zlib.h>

#include <csignal>

#include "support/reader_test_support.h"

namespace lockstep::data {
namespace {

using Packed = ReaderTest;
using torch::data::Example;

std::vector<Example<>> some_samples(std::int64_t count) {
  std::vector<Example<>> samples;
  for (std::int64_t i = 0; i < count; ++i) {
    samples.push_back({torch::arange(i * 7, i * 7 + 15, torch::kShort).view({3, 5}),
                       torch::tensor({i, -i, i * i})});
  }
  return samples;
}

void write_all(const std::string& path, const std::vector<Example<>>& samples) {
  PackedRecordsWriter writer(path);
  for (const auto& sample : samples) writer.add(sample);
  EXPECT_EQ(writer.size(), samples.size());
  writer.finish();
}

// The header's checksum is made right again, so that what is behind it is looked at.
void repair(ByteVector& file) {
  const auto crc = ::crc32(0, file.data(), 252);
  const auto bytes = little(crc, 4);
  std::copy(bytes.begin(), bytes.end(), file.begin() + 252);
}

TEST_F(Packed, GivesBackWhatWasPacked) {
  const auto samples = some_samples(20);
  write_all(path("packed"), samples);
  const PackedRecords packed(path("packed"), PackedRecordsOptions().verify(true));
  ASSERT_EQ(packed.size(), 20U);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto sample = packed.get(i);
    EXPECT_TRUE(torch::equal(sample.data, samples[i].data));
    EXPECT_TRUE(torch::equal(sample.target, samples[i].target));
    EXPECT_EQ(sample.data.scalar_type(), torch::kShort);
    EXPECT_EQ(sample.target.scalar_type(), torch::kLong);
  }
  EXPECT_EQ(packed.describe(3), path("packed") + ": record 3 at byte 424");
  expect_writes_in_place(packed, 7);
  expect_same_in_workers(packed);
  EXPECT_EQ(files(), std::vector<std::string>{"packed"}) << "a temporary file is left";
}

TEST_F(Packed, TakesEveryDtypeShapeAndStride) {
  for (const auto type : {torch::kByte, torch::kChar, torch::kShort, torch::kInt, torch::kLong,
                          torch::kHalf, torch::kBFloat16, torch::kFloat, torch::kDouble}) {
    const auto data = torch::arange(24).to(type).view({4, 3, 2}).transpose(0, 2);
    const auto target = torch::tensor(5).to(type);
    write_all(path("typed"), {{data, target}});
    const auto sample = PackedRecords(path("typed")).get(0);
    EXPECT_EQ(sample.data.scalar_type(), type);
    EXPECT_EQ(sample.data.sizes(), data.sizes());
    EXPECT_TRUE(torch::equal(sample.data, data));
    EXPECT_TRUE(torch::equal(sample.target, target));
  }
  const auto deep = torch::ones({1, 2, 1, 2, 1, 2, 1, 2});
  write_all(path("deep"), {{deep, torch::zeros({0, 3})}});
  const auto sample = PackedRecords(path("deep")).get(0);
  EXPECT_TRUE(torch::equal(sample.data, deep));
  EXPECT_EQ(sample.target.sizes(), (std::vector<std::int64_t>{0, 3}));
  // Larger than the writer's buffer, between smaller ones.
  const auto large = torch::arange(700000, torch::kInt);
  write_all(path("large"), {{large, torch::tensor(1)}, {large * 2, torch::tensor(2)}});
  EXPECT_TRUE(torch::equal(PackedRecords(path("large")).get(1).data, large * 2));
  PackedRecords(path("large")).verify();
}

TEST_F(Packed, TheFormatIsPinned) {
  write_all(path("packed"), {{torch::tensor({1, 2, 3}, torch::kByte), torch::tensor(258)}});
  ByteVector expected = text_bytes("LSPACKED");
  append(expected, little(1, 4));
  append(expected, little(256, 4));
  append(expected, little(1, 4));  // uint8 {3}
  append(expected, little(1, 4));
  append(expected, little(3, 8));
  expected.resize(expected.size() + 7 * 8);
  append(expected, little(5, 4));  // int64 {}
  expected.resize(expected.size() + 4 + 8 * 8);
  append(expected, little(1, 8));
  append(expected, little(16, 8));
  const ByteVector records{1, 2, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  append(expected, little(::crc32(0, records.data(), 16), 4));
  expected.resize(256);
  repair(expected);
  append(expected, records);
  EXPECT_EQ(read("packed"), expected);
}

TEST_F(Packed, PacksADataset) {
  Numbers numbers;
  EXPECT_EQ(pack(numbers, path("numbers")), 20U);
  const PackedRecords packed(path("numbers"));
  ASSERT_EQ(packed.size(), 20U);
  for (std::size_t i = 0; i < 20; ++i) {
    EXPECT_TRUE(torch::equal(packed.get(i).data, numbers.get(i).data));
    EXPECT_TRUE(torch::equal(packed.get(i).target, numbers.get(i).target));
  }
  // One that fails half-way leaves what was there before.
  const auto before = read("numbers");
  Numbers failing;
  failing.before = [](std::size_t index) {
    if (index == 11) throw std::runtime_error("no sample 11");
  };
  EXPECT_THROW(pack(failing, path("numbers")), std::runtime_error);
  EXPECT_EQ(read("numbers"), before);
  EXPECT_THROW(pack(failing, path("another")), std::runtime_error);
  EXPECT_EQ(files(), std::vector<std::string>{"numbers"});
}

TEST_F(Packed, AnUnfinishedFileIsNotThere) {
  {
    PackedRecordsWriter writer(path("packed"));
    writer.add(some_samples(1)[0]);
    EXPECT_TRUE(files().empty()) << files()[0];
  }
  EXPECT_TRUE(files().empty());
  // Nor when the process is killed in the middle.
  const auto child = ::fork();
  if (child == 0) {
    PackedRecordsWriter writer(path("packed"));
    writer.add(some_samples(1)[0]);
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(files().empty()) << files()[0];
}

TEST_F(Packed, TheWriterRefusesWhatDoesNotFit) {
  const auto samples = some_samples(2);
  PackedRecordsWriter writer(path("packed"));
  expect_error([&] { writer.finish(); }, {"there is no sample to write"});
  expect_error(
      [&] {
        writer.add({torch::Tensor(), torch::ones(1)});
      },
      {"the data is an undefined tensor"});
  expect_error(
      [&] {
        writer.add({torch::ones(1), torch::tensor(true)});
      },
      {"the target is Bool; it must be uint8"});
  expect_error(
      [&] {
        writer.add({torch::ones({1, 1, 1, 1, 1, 1, 1, 1, 1}), torch::ones(1)});
      },
      {"the data has 9 dimensions; at most 8"});
  expect_error(
      [&] {
        writer.add({torch::ones({0}), torch::ones({0})});
      },
      {"a sample must have from 1 to 2^63 bytes"});
  writer.add(samples[0]);
  expect_error(
      [&] {
        writer.add({samples[0].data.to(torch::kInt), samples[0].target});
      },
      {"the data of sample 1 is Int [3, 5], that of the first is Short [3, 5]"});
  expect_error(
      [&] {
        writer.add({samples[0].data, torch::ones({2}, torch::kLong)});
      },
      {"the target of sample 1 is Long [2]", "Long [3]"});
  writer.add(samples[1]);  // goes on after a refusal
  writer.finish();
  expect_error([&] { writer.add(samples[0]); }, {"finish() has been called"});
  expect_error([&] { writer.finish(); }, {"finish() has been called"});
  PackedRecords packed(path("packed"), PackedRecordsOptions().verify(true));
  EXPECT_TRUE(torch::equal(packed.get(1).data, samples[1].data));
  expect_error([&] { PackedRecordsWriter(path("no/folder")); }, {"no/folder: cannot be made"});
  std::filesystem::create_directory(path("taken"));
  PackedRecordsWriter onto_folder(path("taken"));
  onto_folder.add(samples[0]);
  expect_error([&] { onto_folder.finish(); }, {"taken: cannot be given its name"});
  expect_error([&] { onto_folder.finish(); }, {"taken: writing has failed before"});
  expect_error([] { pack(std::vector<int>{}.empty() ? Numbers{0} : Numbers{}, "/dev/null/x"); },
               {"cannot be made", "Not a directory"});
}

// Its values cannot be had, which shows when they are copied, not before.
TEST_F(Packed, ASampleIsAddedWholeOrNotAtAll) {
  const auto samples = some_samples(2);
  const auto lost = torch::empty({3}, torch::TensorOptions(torch::kMeta).dtype(torch::kLong));
  PackedRecordsWriter writer(path("packed"));
  EXPECT_ANY_THROW(writer.add({samples[0].data, lost}));
  writer.add(samples[0]);
  EXPECT_ANY_THROW(writer.add({samples[1].data, lost}));
  writer.add(samples[1]);
  writer.finish();
  const PackedRecords packed(path("packed"), PackedRecordsOptions().verify(true));
  ASSERT_EQ(packed.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(torch::equal(packed.get(i).data, samples[i].data));
    EXPECT_TRUE(torch::equal(packed.get(i).target, samples[i].target));
  }
}

TEST_F(Packed, AFullDiskLeavesNothing) {
  const auto samples = some_samples(1);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1 << 20, old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  {
    PackedRecordsWriter writer(path("packed"));
    message = message_of([&] {
      for (int i = 0; i < 40000; ++i) writer.add(samples[0]);
      writer.finish();
    });
    // There is room again, but what has been written ends somewhere.
    ::setrlimit(RLIMIT_FSIZE, &old);
    const auto expected = path("packed") + ": writing has failed before";
    expect_error([&] { writer.add(samples[0]); }, {expected});
    expect_error([&] { writer.finish(); }, {expected});
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(message.find("packed: cannot be written: File too large"), std::string::npos)
      << message;
  EXPECT_TRUE(files().empty());
}

TEST_F(Packed, NamesWhatIsWrongAndWhere) {
  write_all(path("good"), some_samples(4));
  const auto good = read("good");
  ASSERT_EQ(good.size(), 256U + 4 * 56);
  const auto opens = [&](const std::function<void(ByteVector&)>& change, bool is_repaired = true) {
    auto bytes = good;
    change(bytes);
    if (is_repaired && bytes.size() >= 256) repair(bytes);
    const auto file = write("bad", bytes);
    return [=] { PackedRecords{file}; };
  };
  const auto put = [&](std::size_t at, std::uint64_t value, std::size_t width) {
    return opens([=](ByteVector& bytes) {
      const auto number = little(value, width);
      std::copy(number.begin(), number.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    });
  };
  expect_error([this] { PackedRecords{path("missing")}; }, {"missing", "cannot be opened"});
  expect_error(opens([](ByteVector& b) { b.clear(); }),
               {"at byte 0", "LSPACKED", "end of the file"});
  expect_error(opens([](ByteVector& b) { b[0] = 'X'; }),
               {"at byte 0", "no file of packed records"});
  expect_error(opens([](ByteVector& b) { b.resize(200); }), {"at byte 200", "the header"});
  expect_error(put(8, 2, 4), {"at byte 8", "version 1", "found 2"});
  expect_error(opens([](ByteVector& b) { b[20] ^= 1; }, false),
               {"at byte 252", "the checksum of the header"});
  expect_error(put(12, 512, 4), {"at byte 12", "a header of 256 bytes", "found 512"});
  expect_error(put(16, 0, 4), {"at byte 16", "a dtype from 1 to 9", "found 0"});
  expect_error(put(88, 10, 4), {"at byte 88", "a dtype from 1 to 9", "found 10"});
  expect_error(put(20, 9, 4), {"at byte 20", "at most 8 dimensions", "found 9"});
  expect_error(put(24, 1ULL << 63, 8), {"at byte 24", "below 2^63"});
  expect_error(put(32, 1ULL << 62, 8), {"at byte 32", "below 2^63", "4611686018427387904"});
  expect_error(opens([](ByteVector& b) {
                 // Each fits by itself; their product does not.
                 for (const auto at : {24, 32}) {
                   const auto size = little(1ULL << 40, 8);
                   std::copy(size.begin(), size.end(), b.begin() + at);
                 }
               }),
               {"at byte 32", "below 2^63", "1099511627776"});
  expect_error(put(40, 1, 8), {"at byte 40", "0 behind the last dimension", "found 1"});
  expect_error(put(160, 0, 8), {"at byte 160", "1 record or more"});
  expect_error(put(160, 1ULL << 61, 8), {"at byte 160", "less than 2^63 bytes in all"});
  expect_error(put(160, 5, 8), {"at byte 480", "(280 bytes from offset 256)", "end of the file"});
  expect_error(put(160, 3, 8), {"at byte 424", "the end of the file", "56 more bytes"});
  expect_error(put(168, 48, 8), {"at byte 168", "the bytes of one sample, 56", "found 48"});
  expect_error(put(200, 1, 1), {"at byte 200", "a zero"});
  expect_error(opens([](ByteVector& b) { b.pop_back(); }), {"at byte 479", "end of the file"});
  expect_error(opens([](ByteVector& b) { b.push_back(0); }), {"at byte 480", "1 more bytes"});
  // Both halves without bytes: any count would fit.
  expect_error(opens([](ByteVector& b) {
                 std::fill(b.begin() + 24, b.begin() + 40, std::uint8_t{0});
                 std::fill(b.begin() + 96, b.begin() + 104, std::uint8_t{0});
                 std::fill(b.begin() + 168, b.begin() + 176, std::uint8_t{0});
                 b.resize(256);
               }),
               {"at byte 168", "the bytes of one sample"});
  // A damaged record is found by whoever asks for it.
  auto bytes = good;
  bytes[300] ^= 1;
  const auto damaged = write("damaged", bytes);
  const PackedRecords quick(damaged);
  expect_error([&] { quick.verify(); }, {damaged, "the records are damaged"});
  expect_error([&] { PackedRecords(damaged, PackedRecordsOptions().verify(true)); },
               {"the records are damaged"});
  expect_error([&] { static_cast<void>(quick.get(4)); }, {"index 4 is not below the size 4"});
}

}  // namespace
}  // namespace lockstep::data

// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/readers/cifar_dataset.h>
#include <sys/stat.h>

#include <cmath>

#include "support/reader_test_support.h"

namespace lockstep::data {
namespace {

using Cifar = ReaderTest;
constexpr std::size_t kPixels = 3072;

// Record `seed`: its labels, and pixels that tell it and their place apart.
ByteVector record(const ByteVector& labels, unsigned seed) {
  ByteVector bytes = labels;
  for (unsigned i = 0; i < kPixels; ++i) {
    bytes.push_back(static_cast<std::uint8_t>((i * 7 + i / 1024 * 13 + seed * 31) % 256));
  }
  return bytes;
}

torch::Tensor pixels_of(unsigned seed) {
  const auto bytes = record({}, seed);
  return torch::tensor(at::ArrayRef<std::uint8_t>(bytes), torch::kByte).view({3, 32, 32});
}

TEST_F(Cifar, ReadsTheFilesOfCifar10) {
  std::filesystem::create_directory(folder_ / "cifar-10-batches-bin");
  for (unsigned file = 0; file < 5; ++file) {
    ByteVector bytes;
    for (unsigned i = 0; i <= file; ++i) {
      append(bytes, record({static_cast<std::uint8_t>(i)}, file * 10 + i));
    }
    write("cifar-10-batches-bin/data_batch_" + std::to_string(file + 1) + ".bin", bytes);
  }
  write("cifar-10-batches-bin/test_batch.bin", record({9}, 77));
  const auto train = CifarDataset::cifar10(folder_.string(), true);
  ASSERT_EQ(train.size(), 15U);
  std::size_t index = 0;
  for (unsigned file = 0; file < 5; ++file) {
    for (unsigned i = 0; i <= file; ++i, ++index) {
      const auto sample = train.get(index);
      EXPECT_TRUE(torch::equal(sample.data, pixels_of(file * 10 + i).to(torch::kFloat) / 255.0F));
      EXPECT_EQ(sample.target.item<std::int64_t>(), i);
      EXPECT_EQ(sample.target.dim(), 0);
    }
  }
  EXPECT_EQ(train.describe(4),
            path("cifar-10-batches-bin/data_batch_3.bin") + ": record 1 at byte 3073");
  // The folder itself will do as well.
  const auto test = CifarDataset::cifar10(path("cifar-10-batches-bin"), false);
  ASSERT_EQ(test.size(), 1U);
  EXPECT_EQ(test.get(0).target.item<std::int64_t>(), 9);
  expect_writes_in_place(train, 3);
  expect_same_in_workers(train);
}

TEST_F(Cifar, ReadsBothLabelsOfCifar100) {
  ByteVector bytes = record({19, 99}, 1);
  append(bytes, record({3, 42}, 2));
  write("train.bin", bytes);
  write("test.bin", record({0, 0}, 3));
  const auto fine = CifarDataset::cifar100(folder_.string(), true);
  const auto coarse =
      CifarDataset::cifar100(folder_.string(), true, {}, CifarLabels::Cifar100Coarse);
  EXPECT_EQ(fine.get(0).target.item<std::int64_t>(), 99);
  EXPECT_EQ(fine.get(1).target.item<std::int64_t>(), 42);
  EXPECT_EQ(coarse.get(0).target.item<std::int64_t>(), 19);
  EXPECT_EQ(coarse.get(1).target.item<std::int64_t>(), 3);
  EXPECT_TRUE(torch::equal(fine.get(1).data, pixels_of(2).to(torch::kFloat) / 255.0F));
  EXPECT_EQ(CifarDataset::cifar100(folder_.string(), false).size(), 1U);
}

TEST_F(Cifar, LeavesPixelsOrNormalisesThem) {
  const auto file = write("one", record({5}, 4));
  const CifarDataset raw({file}, CifarLabels::Cifar10, CifarDatasetOptions().raw(true));
  EXPECT_TRUE(torch::equal(raw.get(0).data, pixels_of(4)));
  expect_writes_in_place(raw, 0);
  const CifarDataset scaled({file}, CifarLabels::Cifar10,
                            CifarDatasetOptions().mean({0.5, 0.25, 0.125}).std({0.5, 0.25, 2}));
  const auto mean = torch::tensor({0.5F, 0.25F, 0.125F}).view({3, 1, 1});
  const auto deviation = torch::tensor({0.5F, 0.25F, 2.0F}).view({3, 1, 1});
  EXPECT_TRUE(torch::allclose(scaled.get(0).data,
                              (pixels_of(4).to(torch::kFloat) / 255.0F - mean) / deviation, 1e-6,
                              1e-6));
}

TEST_F(Cifar, NamesWhatIsWrongAndWhere) {
  const auto opens = [](const std::string& file) {
    return [=] { CifarDataset({file}, CifarLabels::Cifar10); };
  };
  expect_error(opens(path("missing")), {path("missing"), "cannot be opened", "No such file"});
  expect_error(opens(folder_.string()), {folder_.string(), "not an ordinary file"});
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  expect_error(opens(path("pipe")), {"not an ordinary file"});
  expect_error(opens(write("empty", {})), {"at byte 0", "records of 3073 bytes", "empty file"});
  auto bytes = record({1}, 0);
  bytes.push_back(0);
  expect_error(opens(write("long", bytes)), {"at byte 3073", "found 1 bytes"});
  bytes.resize(3000);
  expect_error(opens(write("short", bytes)), {"at byte 0", "found 3000 bytes"});
  bytes = record({1}, 0);
  append(bytes, record({10}, 0));
  const CifarDataset bad({write("label", bytes)}, CifarLabels::Cifar10);
  static_cast<void>(bad.get(0));
  expect_error([&] { static_cast<void>(bad.get(1)); },
               {path("label"), "at byte 3073", "a label below 10", "found 10"});
  expect_error([&] { static_cast<void>(bad.get(2)); }, {"index 2 is not below the size 2"});
  expect_error([&] { static_cast<void>(bad.describe(2)); }, {"index 2 is not below"});
  const auto hundred = write("hundred", record({20, 100}, 0));
  expect_error(
      [&] { static_cast<void>(CifarDataset({hundred}, CifarLabels::Cifar100Coarse).get(0)); },
      {"at byte 0", "a label below 20"});
  expect_error(
      [&] { static_cast<void>(CifarDataset({hundred}, CifarLabels::Cifar100Fine).get(0)); },
      {"at byte 1", "a label below 100"});
  expect_error([] { CifarDataset({}, CifarLabels::Cifar10); }, {"no files are given"});
  const auto with = [&](const CifarDatasetOptions& options) {
    return [=, this] { CifarDataset({path("label")}, CifarLabels::Cifar10, options); };
  };
  expect_error(with(CifarDatasetOptions().std({1, 0, 1})), {"std of channel 1 is 0"});
  expect_error(with(CifarDatasetOptions().mean({1, 0, std::nan("")})),
               {"mean of channel 2 is nan"});
  expect_error(
      [&] {
        static_cast<void>(CifarDataset::cifar100(folder_.string(), true, {}, CifarLabels::Cifar10));
      },
      {"Cifar100Fine or Cifar100Coarse"});
  expect_error([&] { static_cast<void>(CifarDataset::cifar10(path("nowhere"), true)); },
               {"nowhere/data_batch_1.bin", "cannot be opened"});
}

}  // namespace
}  // namespace lockstep::data

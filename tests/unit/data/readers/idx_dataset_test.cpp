// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/readers/idx_dataset.h>
#include <sys/resource.h>
#include <zlib.h>

#include <cmath>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using IdxBytes = std::vector<std::uint8_t>;

IdxBytes idx(std::uint8_t type, const std::vector<std::uint32_t>& sizes, const IdxBytes& values) {
  IdxBytes file{0, 0, type, static_cast<std::uint8_t>(sizes.size())};
  for (const auto size : sizes) {
    for (const int shift : {24, 16, 8, 0}) file.push_back(static_cast<std::uint8_t>(size >> shift));
  }
  file.insert(file.end(), values.begin(), values.end());
  return file;
}

class Idx : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "idx-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const IdxBytes& bytes) const {
    const auto path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return path;
  }
  std::string write_gzip(const std::string& name, const IdxBytes& bytes) const {
    const auto path = (folder_ / name).string();
    gzFile file = ::gzopen(path.c_str(), "wb");
    ::gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
    ::gzclose(file);
    return path;
  }
  // The message must name the file and contain all of `parts`.
  void expect_error(const std::string& path, const std::vector<std::string>& parts) const {
    const auto message = message_of([&] { IdxFile file(path); });
    EXPECT_NE(message.find(path), std::string::npos) << message;
    for (const auto& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
  }

  std::filesystem::path folder_;
};

TEST_F(Idx, ReadsPlainAndGzip) {
  const auto bytes = idx(8, {2, 3}, {1, 2, 3, 4, 5, 255});
  const auto expected = torch::tensor({1, 2, 3, 4, 5, 255}, torch::kByte).view({2, 3});
  EXPECT_TRUE(torch::equal(IdxFile(write("plain", bytes)).values(), expected));
  EXPECT_TRUE(torch::equal(IdxFile(write_gzip("packed.gz", bytes)).values(), expected));
}

TEST_F(Idx, ReadsEveryTypeInBigEndian) {
  const auto value = [&](std::uint8_t type, const IdxBytes& raw) {
    return IdxFile(write("typed", idx(type, {1}, raw))).values();
  };
  EXPECT_TRUE(torch::equal(value(0x09, {0xFE}), torch::tensor({-2}, torch::kChar)));
  EXPECT_TRUE(torch::equal(value(0x0B, {0x01, 0x02}), torch::tensor({258}, torch::kShort)));
  EXPECT_TRUE(torch::equal(value(0x0C, {0, 1, 0, 2}), torch::tensor({65538}, torch::kInt)));
  EXPECT_TRUE(torch::equal(value(0x0D, {0x3F, 0xC0, 0, 0}), torch::tensor({1.5F})));
  EXPECT_TRUE(torch::equal(value(0x0E, {0xBF, 0xE0, 0, 0, 0, 0, 0, 0}),
                           torch::tensor({-0.5}, torch::kDouble)));
}

TEST_F(Idx, NamesWhatIsWrongAndWhere) {
  expect_error((folder_ / "missing").string(), {"cannot be opened", "No such file"});
  expect_error(folder_.string(), {"not an ordinary file"});
  expect_error(write("text", {'h', 'e', 'l', 'l', 'o'}),
               {"at byte 0", "expected two zero bytes", "104 and 101"});
  expect_error(write("empty", {}), {"at byte 0", "idx header", "end of the file"});
  expect_error(write("type", {0, 0, 7, 1, 0, 0, 0, 0}), {"at byte 2", "type code", "found 7"});
  expect_error(write("flat", {0, 0, 8, 0}), {"at byte 3", "1 to 8 dimensions", "found 0"});
  expect_error(write("deep", {0, 0, 8, 200}), {"at byte 3", "found 200"});
  expect_error(write("cut_header", {0, 0, 8, 2, 0, 0, 0, 1, 0}), {"at byte 9", "dimension 1"});
  expect_error(write("cut", idx(8, {2, 3}, {1, 2, 3})),
               {"at byte 15", "6 bytes from offset 12", "end of the file"});
  expect_error(write("long", idx(8, {3}, {1, 2, 3, 4})),
               {"at byte 11", "expected the end of the file"});
}

TEST_F(Idx, NoticesDamagedGzip) {
  IdxBytes values(100000);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<std::uint8_t>(i * i % 251);
  const auto path = write_gzip("cut.gz", idx(8, {100000}, values));
  const auto size = std::filesystem::file_size(path);
  std::filesystem::resize_file(path, size / 2);
  expect_error(path, {"at byte", "100000 bytes", "truncated gzip"});
  for (const unsigned missing : {1U, 4U, 8U}) {
    const auto whole = write_gzip("trailer.gz", idx(8, {100000}, values));
    std::filesystem::resize_file(whole, size - missing);
    expect_error(whole, {"truncated gzip"});
  }
  const auto damaged = write_gzip("damaged.gz", idx(8, {100000}, values));
  std::fstream file(damaged, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(size - 8));  // the checksum
  file.write("\x12\x34\x56\x78", 4);
  file.close();
  expect_error(damaged, {"gzip"});
}

TEST_F(Idx, HostileHeaderCostsNoMemory) {
  const auto max = 0xFFFFFFFFU;
  expect_error(write("overflow", idx(8, {max, max, max, max}, {})), {"at byte 8", "at most"});
  const auto peak = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const auto before = peak();
  expect_error(write("huge", idx(8, {0x80000000U}, {1, 2, 3})), {"at byte 11", "2147483648 bytes"});
  EXPECT_LT(peak() - before, 64 * 1024) << "KiB were allocated on the header's word";
}

TEST_F(Idx, DatasetGivesNormalisedImages) {
  const auto images = write("images", idx(8, {2, 1, 2}, {0, 255, 51, 102}));
  const auto labels = write("labels", idx(8, {2}, {9, 3}));
  const IdxDataset plain(images, labels);
  EXPECT_EQ(plain.size(), 2U);
  const auto sample = plain.get(1);
  EXPECT_EQ(sample.data.sizes(), (std::vector<std::int64_t>{1, 1, 2}));
  EXPECT_TRUE(torch::equal(sample.data.view(-1), torch::tensor({51, 102}) / 255.0F));
  EXPECT_EQ(sample.target.dim(), 0);
  EXPECT_EQ(sample.target.item<std::int64_t>(), 3);
  EXPECT_EQ(sample.target.scalar_type(), torch::kLong);
  const IdxDataset scaled(images, labels, IdxDatasetOptions().mean(0.5).std(0.25));
  EXPECT_TRUE(torch::equal(scaled.get(0).data.view(-1), torch::tensor({-2.0F, 2.0F})));
  EXPECT_NE(message_of([&] { static_cast<void>(plain.get(2)); }).find("index 2"),
            std::string::npos);
}

TEST_F(Idx, DatasetRefusesWhatDoesNotFit) {
  const auto images = write("images", idx(8, {2, 1, 2}, {0, 255, 51, 102}));
  const auto labels = write("labels", idx(8, {2}, {9, 3}));
  const auto message = [](const std::string& i, const std::string& l, IdxDatasetOptions o = {}) {
    return message_of([&] { IdxDataset dataset(i, l, o); });
  };
  const auto three = write("three", idx(8, {3}, {9, 3, 1}));
  EXPECT_NE(message(images, three).find("2 images, but " + three + " holds 3 labels"),
            std::string::npos);
  EXPECT_NE(message(labels, labels).find("expected images as uint8 {N, H, W}"), std::string::npos);
  EXPECT_NE(message(images, images).find("expected labels as uint8 {N}"), std::string::npos);
  const auto none = write("none", idx(8, {0, 1, 2}, {}));
  EXPECT_NE(message(none, write("no_labels", idx(8, {0}, {}))).find("no pixels"),
            std::string::npos);
  EXPECT_NE(message(images, labels, IdxDatasetOptions().std(0)).find("std is 0"),
            std::string::npos);
  EXPECT_NE(message(images, labels, IdxDatasetOptions().mean(std::nan(""))).find("mean is nan"),
            std::string::npos);
}

TEST_F(Idx, LoaderBuildsTheSameBatchesInPlace) {
  IdxBytes pixels(7 * 4);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i * 9);
  const auto images = write("images", idx(8, {7, 2, 2}, pixels));
  const auto labels = write("labels", idx(8, {7}, {0, 1, 2, 3, 4, 5, 6}));
  const IdxDataset dataset(images, labels);
  for (const int workers : {0, 2}) {
    DataLoader loader(dataset, in_order(7), options_with(workers, 3));
    std::size_t index = 0;
    for (auto& batch : loader) {
      for (std::int64_t row = 0; row < batch.data.size(0); ++row, ++index) {
        EXPECT_TRUE(torch::equal(batch.data[row], dataset.get(index).data));
        EXPECT_TRUE(torch::equal(batch.target[row], dataset.get(index).target));
      }
    }
    EXPECT_EQ(index, 7U);
  }
}

}  // namespace
}  // namespace lockstep::data

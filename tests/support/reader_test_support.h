// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "support/loader_test_support.h"

namespace lockstep::data {

using ByteVector = std::vector<std::uint8_t>;

inline ByteVector little(std::uint64_t value, std::size_t bytes) {
  ByteVector result;
  for (std::size_t i = 0; i < bytes; ++i) {
    result.push_back(static_cast<std::uint8_t>(value));
    value >>= 8;
  }
  return result;
}

inline void append(ByteVector& to, const ByteVector& more) {
  to.insert(to.end(), more.begin(), more.end());
}

inline ByteVector text_bytes(const std::string& text) {
  return {text.begin(), text.end()};
}

/// A folder of its own for each test, and what readers have in common.
class ReaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "readers-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    descriptors_ = open_descriptors();
  }
  void TearDown() override {
    EXPECT_EQ(open_descriptors(), descriptors_) << "a descriptor is left";
    std::filesystem::remove_all(folder_);
  }

  [[nodiscard]] std::string path(const std::string& name) const {
    return (folder_ / name).string();
  }
  std::string write(const std::string& name, const ByteVector& bytes) const {
    std::ofstream(path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return path(name);
  }
  [[nodiscard]] ByteVector read(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  static void expect_error(const std::function<void()>& call,
                           const std::vector<std::string>& parts) {
    const auto message = message_of(call);
    for (const auto& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(message.substr(0, message.find("\nException raised")).find('\n'), std::string::npos)
        << "more than one line: " << message;
  }

  std::filesystem::path folder_;

 private:
  std::size_t descriptors_ = 0;
};

/// `get_into` writes what `get` returns, and refuses places of another size.
template <class Dataset>
void expect_writes_in_place(const Dataset& dataset, std::size_t index) {
  static_assert(MapStyleDataset<Dataset> && WritesInPlace<Dataset>);
  const auto sample = dataset.get(index);
  std::vector<std::byte> data(sample.data.nbytes());
  std::vector<std::byte> target(sample.target.nbytes());
  dataset.get_into(index, data, target);
  EXPECT_EQ(std::memcmp(data.data(), sample.data.const_data_ptr(), data.size()), 0);
  EXPECT_EQ(std::memcmp(target.data(), sample.target.const_data_ptr(), target.size()), 0);
  data.push_back(std::byte{0});
  EXPECT_NE(message_of([&] { dataset.get_into(index, data, target); }).find("the destination"),
            std::string::npos);
  data.pop_back();
  target.pop_back();
  EXPECT_NE(message_of([&] { dataset.get_into(index, data, target); }).find("the destination"),
            std::string::npos);
}

/// Workers and the calling thread give the same samples.
template <class Dataset>
void expect_same_in_workers(const Dataset& dataset) {
  for (const int workers : {0, 2}) {
    DataLoader loader(dataset, in_order(dataset.size()), options_with(workers, 3));
    std::size_t index = 0;
    for (auto& batch : loader) {
      for (std::int64_t row = 0; row < batch.data.size(0); ++row, ++index) {
        EXPECT_TRUE(torch::equal(batch.data[row], dataset.get(index).data));
        EXPECT_TRUE(torch::equal(batch.target[row], dataset.get(index).target));
      }
    }
    EXPECT_EQ(index, dataset.size());
  }
}

}  // namespace lockstep::data

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "support/raw_safetensors.h"
#include "training/tensorboard/crc32c.h"

/// @file
/// Reads event files, as a program would that knows no more than the format.

namespace lockstep::testing {

/// A field of a message of protobuf.
struct ProtoField {
  std::uint64_t number = 0;
  std::uint64_t word = 0;  ///< of numbers
  std::string_view bytes;  ///< of texts and messages
};

class ProtoReader {
 public:
  explicit ProtoReader(std::string_view text) : text_(text) {}

  [[nodiscard]] std::vector<ProtoField> fields() {
    std::vector<ProtoField> all;
    while (!text_.empty()) {
      const std::uint64_t key = varint();
      ProtoField field{key >> 3, 0, {}};
      switch (key & 7U) {
        case 0:
          field.word = varint();
          break;
        case 1:
          field.word = word(8);
          break;
        case 2:
          field.bytes = take(varint());
          break;
        case 5:
          field.word = word(4);
          break;
        default:
          ADD_FAILURE() << "no protobuf: key " << key;
          return all;
      }
      all.push_back(field);
    }
    return all;
  }

 private:
  std::string_view take(std::uint64_t bytes) {
    if (bytes > text_.size()) ADD_FAILURE() << "the message is too short";
    const auto part = text_.substr(0, bytes);
    text_.remove_prefix(part.size());
    return part;
  }
  std::uint64_t word(std::size_t bytes) {
    std::uint64_t value = 0;
    const auto part = take(bytes);
    for (std::size_t i = 0; i < part.size(); ++i) {
      value |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(part[i])) << (8 * i);
    }
    return value;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const std::uint64_t byte = word(1);
      value |= (byte & 0x7FU) << shift;
      if (byte < 0x80) break;
    }
    return value;
  }

  std::string_view text_;
};

/// The fields with this number.
inline std::vector<ProtoField> fields_of(std::string_view message, std::uint64_t number) {
  std::vector<ProtoField> found;
  for (const auto& field : ProtoReader(message).fields()) {
    if (field.number == number) found.push_back(field);
  }
  return found;
}

/// The events of a file; a record that is cut at the end is left out, and makes `is_cut` true.
inline std::vector<std::string> events_in(const std::string& bytes, bool* is_cut = nullptr) {
  std::vector<std::string> events;
  const auto number = [](std::string_view text) {
    std::uint64_t value = 0;
    for (std::size_t i = text.size(); i > 0; --i) {
      value = value << 8 | static_cast<std::uint8_t>(text[i - 1]);
    }
    return value;
  };
  const auto expect_checksum = [&](std::string_view part, std::string_view checksum) {
    const std::uint32_t crc = training::crc32c_by_tables(std::as_bytes(std::span(part)));
    EXPECT_EQ(number(checksum), ((crc >> 15) | (crc << 17)) + 0xA282EAD8U);
  };
  std::string_view rest(bytes);
  if (is_cut != nullptr) *is_cut = false;
  while (!rest.empty()) {
    const std::uint64_t size = rest.size() < 12 ? 0 : number(rest.substr(0, 8));
    if (rest.size() < 12 || rest.size() < 16 + size) {
      if (is_cut == nullptr) ADD_FAILURE() << "the last record is cut";
      if (is_cut != nullptr) *is_cut = true;
      break;
    }
    expect_checksum(rest.substr(0, 8), rest.substr(8, 4));
    expect_checksum(rest.substr(12, size), rest.substr(12 + size, 4));
    events.emplace_back(rest.substr(12, size));
    rest.remove_prefix(16 + size);
  }
  return events;
}

inline std::vector<std::string> events_of(const std::filesystem::path& path,
                                          bool* is_cut = nullptr) {
  return events_in(training::read_bytes(path), is_cut);
}

/// A value of a summary.
struct FoundValue {
  std::string tag;
  std::int64_t step = 0;
  std::string bytes;  ///< the whole value

  [[nodiscard]] double scalar() const {
    const auto found = fields_of(bytes, 2);
    if (found.size() != 1) ADD_FAILURE() << tag << " is no scalar";
    return found.empty() ? 0 : std::bit_cast<float>(static_cast<std::uint32_t>(found[0].word));
  }
};

inline std::vector<FoundValue> values_in(const std::vector<std::string>& events) {
  std::vector<FoundValue> values;
  for (const auto& event : events) {
    FoundValue found;
    for (const auto& field : ProtoReader(event).fields()) {
      if (field.number == 2) found.step = static_cast<std::int64_t>(field.word);
      if (field.number != 5) continue;
      found.bytes = fields_of(field.bytes, 1).at(0).bytes;
      const auto tags = fields_of(found.bytes, 1);
      found.tag = tags.empty() ? "" : std::string(tags[0].bytes);
      values.push_back(found);
    }
  }
  return values;
}

inline std::vector<FoundValue> values_of(const std::filesystem::path& path,
                                         bool* is_cut = nullptr) {
  return values_in(events_of(path, is_cut));
}

/// The event files in a folder, in the order in which they are read.
inline std::vector<std::filesystem::path> event_files_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace lockstep::testing

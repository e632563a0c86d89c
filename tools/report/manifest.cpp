// SPDX-License-Identifier: BSD-3-Clause
#include "manifest.h"

#include <zlib.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "run_files.h"

namespace report {
namespace {

using nlohmann::json;

constexpr std::size_t kCrcDigits = 8;

bool has_right_checksum(std::string_view line) {
  if (line.size() <= kCrcDigits + 1 || line[kCrcDigits] != ' ') return false;
  const auto text = line.substr(kCrcDigits + 1);
  const auto crc =
      ::crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size()));
  std::array<char, kCrcDigits + 1> digits{};
  std::snprintf(digits.data(), digits.size(), "%08x", static_cast<unsigned>(crc));
  return line.substr(0, kCrcDigits) == digits.data();
}

std::int64_t whole(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
}

std::string text(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

bool is_there(const std::filesystem::path& folder, std::int64_t generation) {
  std::array<char, 40> name{};
  std::snprintf(name.data(), name.size(), "gen-%06lld", static_cast<long long>(generation));
  std::error_code error;
  return std::filesystem::is_directory(folder / name.data(), error);
}

}  // namespace

std::vector<Checkpoint> read_manifest(const std::filesystem::path& path, FileNote& note) {
  std::vector<Checkpoint> checkpoints;
  note.unused = for_each_line(path, [&](std::string_view line) {
    if (!has_right_checksum(line)) return false;
    const auto object = json::parse(line.substr(kCrcDigits + 1), nullptr, false);
    if (!object.is_object()) return false;
    Checkpoint one{.generation = whole(object, "generation"),
                   .step = whole(object, "step"),
                   .world_size = whole(object, "world_size"),
                   .metric = text(object, "metric"),
                   .failure = text(object, "failure")};
    if (const auto files = object.find("files"); files != object.end() && files->is_object()) {
      one.files = files->size();
      for (const auto& file : *files) {
        if (file.is_object()) one.bytes += static_cast<double>(whole(file, "bytes"));
      }
    }
    one.is_there = is_there(path.parent_path(), one.generation);
    checkpoints.push_back(one);
    ++note.lines;
    return true;
  });
  return checkpoints;
}

}  // namespace report

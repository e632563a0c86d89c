// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/folder.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <lockstep/core/logging.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <map>
#include <regex>
#include <set>
#include <span>
#include <string_view>
#include <system_error>

#include "files/bounded_file.h"
#include "native/posix/atomic_file.h"
#include "native/posix/file_tree.h"
#include "native/posix/host_name.h"
#include "native/posix/new_file.h"
#include "native/posix/posix_check.h"

namespace lockstep::training {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxManifestBytes = 256ULL << 20;
// Of a manifest that has grown for months. A line of a failure is short.
constexpr std::uint64_t kLastLines = 64ULL << 10;
constexpr std::size_t kMaxOwner = 300;
constexpr const char* kRecord = "RECORD";

std::string name_of(std::int64_t generation) {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "gen-%06lld", static_cast<long long>(generation));
  return name.data();
}

/// The number in the name of a generation's folder, in any form; nothing: it is none.
std::optional<std::int64_t> number_in(const std::string& name) {
  static const std::regex kForm(R"(gen-(\d{1,18})(\.[0-9a-f]+\.tmp)?(\.trash)?)");
  std::smatch parts;
  if (!std::regex_match(name, parts, kForm)) return std::nullopt;
  return std::stoll(parts[1]);
}

bool is_left_over(const std::string& name) {
  // What a shortened manifest is called before it replaces the older one.
  static const std::regex kManifest(R"(MANIFEST\.[0-9a-f]{16}\.tmp)");
  return (number_in(name) && (name.ends_with(".tmp") || name.ends_with(".trash"))) ||
         std::regex_match(name, kManifest);
}

std::vector<fs::path> entries_of(const fs::path& path) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path, error)) entries.push_back(entry.path());
  TORCH_CHECK(!error, path.string(), ": cannot be listed: ", error.message());
  return entries;
}

/// Of each generation the last line: a generation that failed may have failed late.
std::vector<CheckpointRecord> last_of_each(std::vector<CheckpointRecord> records) {
  std::map<std::int64_t, CheckpointRecord> last;
  for (auto& record : records) last.insert_or_assign(record.generation, std::move(record));
  records.clear();
  for (auto& [generation, record] : last) records.push_back(std::move(record));
  return records;
}

}  // namespace

fs::path CheckpointFolder::generation(std::int64_t number) const {
  return path_ / name_of(number);
}

fs::path CheckpointFolder::unfinished(std::int64_t number, const std::string& run) const {
  return path_ / (name_of(number) + "." + run + ".tmp");
}

void CheckpointFolder::open_for_writing() {
  try {
    native::make_folders(path_.string(), files_);
    lock();
    remove_leftovers();
    add_missing_lines();
    try {
      shorten_manifest();
    } catch (const std::system_error& failure) {
      logging::warning(std::string("the manifest stays as long as it is: ") + failure.what());
    }
  } catch (const std::system_error& failure) {
    TORCH_CHECK(false, failure.what());
  }
}

void CheckpointFolder::lock() {
  const fs::path path = path_ / "LOCK";
  native::FileDescriptor file(
      files_.open(path.string(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!file.is_open()) native::throw_errno(path.string() + ": cannot be made");
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) native::throw_errno(path.string() + ": cannot be locked");
    std::array<char, kMaxOwner> owner{};
    const auto got = ::pread(file.get(), owner.data(), owner.size(), 0);
    TORCH_CHECK(false, path_.string(), ": another job uses this folder: ",
                std::string_view(owner.data(), got > 0 ? static_cast<std::size_t>(got) : 0),
                "; give each job a folder of its own");
  }
  const std::string owner = "process " + std::to_string(::getpid()) + " on " + native::host_name();
  if (files_.resize(file.get(), 0) != 0) native::throw_errno(path.string() + ": cannot be written");
  native::write_all(files_, file, 0, std::as_bytes(std::span(owner)), path.string());
  lock_ = std::move(file);
  lock_ends_here_.emplace(lock_.get());
}

void CheckpointFolder::remove_leftovers() const {
  for (const auto& path : entries_of(path_)) {
    if (!is_left_over(path.filename().string())) continue;
    const auto error = native::remove_tree(path.string(), files_);
    if (error) logging::warning(path.string() + ": cannot be removed: " + error.message());
  }
}

std::optional<CheckpointRecord> CheckpointFolder::record_in(const fs::path& folder) const {
  const std::string path = folder / kRecord;
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  try {
    const files::BoundedFile file(path, files_);
    if (file.size() > kMaxManifestBytes) return std::nullopt;
    return CheckpointRecord::from_line(file.text(0, file.size(), "the line"));
  } catch (const c10::Error&) {
    return std::nullopt;  // one that cannot be read keeps nobody from the others
  }
}

void CheckpointFolder::add_missing_lines() const {
  std::set<std::int64_t> known;
  for (const auto& record : records()) known.insert(record.generation);
  std::map<std::int64_t, CheckpointRecord> missing;
  for (const auto& path : entries_of(path_)) {
    const std::string name = path.filename().string();
    const auto number = number_in(name);
    if (!number || is_left_over(name) || known.contains(*number)) continue;
    auto record = record_in(path);
    if (record && record->generation == *number) {
      missing.emplace(*number, std::move(*record));
    } else {
      logging::warning(path.string() +
                       ": has no line in the manifest and none of its own, so it does not count; "
                       "remove it by hand");
    }
  }
  // The folder may have got its name a moment ago, from a process that was killed before the name
  // was on the disk. A line counts only together with its folder.
  if (!missing.empty()) native::sync_folder(path_.string(), files_);
  for (const auto& [number, record] : missing) append(record);
}

std::int64_t CheckpointFolder::newest() const {
  std::int64_t newest = 0;
  for (const auto& record : records()) newest = std::max(newest, record.generation);
  for (const auto& path : entries_of(path_)) {
    // One that was interrupted between its name and its line in the manifest is not written again.
    newest = std::max(newest, number_in(path.filename().string()).value_or(0));
  }
  return newest;
}

std::vector<CheckpointRecord> CheckpointFolder::records(std::uint64_t& from) const {
  std::error_code error;
  if (!fs::exists(manifest(), error)) {
    TORCH_CHECK(!error, manifest().string(), ": cannot be examined: ", error.message());
    return {};
  }
  const files::BoundedFile file(manifest().string(), files_);
  TORCH_CHECK(file.size() <= kMaxManifestBytes, manifest().string(), ": has ", file.size(),
              " bytes, more than a manifest can have");
  if (file.size() < from) from = 0;  // another job has shortened it
  const std::string text = file.text(from, file.size() - from, "the lines");
  const auto end = text.rfind('\n');
  if (end == std::string::npos) return {};  // cut, or being written
  from += end + 1;
  return parse_manifest(std::string_view(text).substr(0, end + 1));
}

std::vector<CheckpointRecord> CheckpointFolder::records() const {
  std::uint64_t from = 0;
  return records(from);
}

bool CheckpointFolder::has_failed(std::int64_t number, const std::string& run) const {
  std::error_code error;
  const auto bytes = fs::file_size(manifest(), error);
  std::uint64_t from = !error && bytes > kLastLines ? bytes - kLastLines : 0;
  const auto last = records(from);
  return std::any_of(last.begin(), last.end(), [&](const auto& record) {
    return record.generation == number && record.run == run && !record.failure.empty();
  });
}

std::vector<CheckpointRecord> CheckpointFolder::candidates() const {
  auto all = last_of_each(records());
  std::erase_if(all, [](const auto& record) { return !record.failure.empty(); });
  const std::int64_t newest = all.empty() ? 0 : all.back().generation;
  // Others have been removed, since they were not to be kept. The newest never is.
  std::erase_if(all, [&](const auto& record) {
    std::error_code error;
    return record.generation != newest && !fs::exists(generation(record.generation), error);
  });
  return all;
}

void CheckpointFolder::shorten_manifest() const {
  const auto all = records();
  const auto kept = candidates();
  if (kept.size() * 2 >= all.size() || all.empty()) return;
  std::string text;
  for (const auto& record : kept) text += record.to_line() + "\n";
  // The number of the newest generation is not used again, whatever became of it.
  const auto newest = std::max_element(all.begin(), all.end(), [](const auto& a, const auto& b) {
    return a.generation < b.generation;
  });
  if (kept.empty() || kept.back().generation < newest->generation) {
    text += newest->to_line() + "\n";
  }
  native::write_atomically(manifest().string(), text, files_);
}

void CheckpointFolder::make_unfinished(std::int64_t number, const std::string& run) const {
  const fs::path folder = unfinished(number, run);
  std::error_code error;
  TORCH_CHECK(files_.make_folder(folder.string()) == 0 ||
                  (errno == EEXIST && fs::is_directory(folder, error)),
              folder.string(), ": the folder cannot be made: ", native::error_text(errno));
}

void CheckpointFolder::append(const CheckpointRecord& record) const {
  const std::string path = manifest().string();
  const native::FileDescriptor file(
      files_.open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (!file.is_open()) native::throw_errno(path + ": cannot be opened");
  struct stat info {};
  if (files_.examine(file.get(), info) != 0) native::throw_errno(path + ": cannot be examined");
  const auto end = static_cast<std::uint64_t>(info.st_size);
  // A line that was cut must not spoil this one.
  std::byte last{'\n'};
  if (end > 0 && files_.read(file.get(), std::span(&last, 1), end - 1) != 1) {
    native::throw_errno(path + ": cannot be read");
  }
  std::string line(last == std::byte{'\n'} ? "" : "\n");
  line += record.to_line();
  line += '\n';
  native::write_all(files_, file, end, std::as_bytes(std::span(line)), path);
  if (files_.sync(file.get()) != 0) native::throw_errno(path + ": cannot be written to the disk");
  if (info.st_size == 0) native::sync_folder(path_.string(), files_);
}

void CheckpointFolder::give_place(const CheckpointRecord& record) const {
  const fs::path from = unfinished(record.generation, record.run);
  const fs::path to = generation(record.generation);
  const std::string line = record.to_line();
  native::NewFile file((from / kRecord).string(), files_);
  file.write(0, std::as_bytes(std::span(line)));
  file.sync();
  native::sync_folder(from.string(), files_);
  if (files_.rename(from.string(), to.string()) != 0) {
    native::throw_errno(from.string() + ": cannot be given the name " + to.filename().string());
  }
  try {
    native::sync_folder(path_.string(), files_);
  } catch (const std::system_error&) {
    remove(to);  // a generation that is said to have failed is not to be found later
    throw;
  }
}

void CheckpointFolder::remove(const fs::path& folder) const noexcept {
  try {
    const std::string trash = folder.string() + ".trash";
    // At once: no generation is there in part.
    const bool is_renamed = files_.rename(folder.string(), trash) == 0;
    static_cast<void>(native::remove_tree(is_renamed ? trash : folder.string(), files_));
  } catch (const std::exception&) {  // there is no memory for the names
  }
}

}  // namespace lockstep::training

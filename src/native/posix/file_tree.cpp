// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/file_tree.h"

#include <cerrno>
#include <filesystem>
#include <vector>

#include "native/posix/atomic_file.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

namespace fs = std::filesystem;

std::error_code last_error() {
  return {errno, std::generic_category()};
}

void sync_name_of(const fs::path& folder, FileSystem& files) {
  try {
    sync_folder(folder.parent_path().string(), files);
  } catch (const std::system_error& error) {
    throw_errno(folder.string() + ": the name of this folder cannot be written to the disk",
                error.code().value());
  }
}

std::error_code remove_folder(const std::string& path, FileSystem& files) {
  std::vector<std::string> entries;
  std::error_code listing;
  for (fs::directory_iterator entry(path, listing), end; !listing && entry != end;
       entry.increment(listing)) {
    entries.push_back(entry->path().string());
  }
  std::error_code first = listing;
  for (const auto& entry : entries) {
    const auto error = remove_tree(entry, files);
    if (!first) first = error;
  }
  if (files.remove_folder(path) != 0 && !first && errno != ENOENT) first = last_error();
  return first;
}

}  // namespace

void make_folders(const std::string& path, FileSystem& files) {
  const fs::path whole = fs::absolute(fs::path(path) / "").lexically_normal().parent_path();
  std::vector<fs::path> missing;
  std::error_code error;
  fs::path there = whole;
  for (; !fs::exists(there, error) && there.has_relative_path(); there = there.parent_path()) {
    missing.push_back(there);
  }
  // The name of each is on the disk before one below it is made. So only the last of those that are
  // there can have a name that is not.
  sync_name_of(there, files);
  for (auto one = missing.rbegin(); one != missing.rend(); ++one) {
    if (files.make_folder(one->string()) != 0 && errno != EEXIST) {
      throw_errno(one->string() + ": the folder cannot be made");
    }
    sync_name_of(*one, files);
  }
  if (!fs::is_directory(whole, error)) {
    throw_errno(path + ": the folder cannot be made", ENOTDIR);
  }
}

std::error_code remove_tree(const std::string& path, FileSystem& files) {
  std::error_code error;
  const auto kind = fs::symlink_status(path, error).type();
  if (kind == fs::file_type::not_found) return {};
  if (kind == fs::file_type::directory) return remove_folder(path, files);
  return files.remove(path) != 0 && errno != ENOENT ? last_error() : std::error_code{};
}

}  // namespace lockstep::native

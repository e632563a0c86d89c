// SPDX-License-Identifier: BSD-3-Clause
#include "data/readers/folder_walk.h"

#include <c10/util/Exception.h>
#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string_view>
#include <utility>

#include "native/posix/posix_check.h"

namespace lockstep::data {
namespace {

struct CloseFolder {
  void operator()(DIR* folder) const noexcept { ::closedir(folder); }
};

// A folder as the file system knows it, whatever it is called.
struct FolderIdentity {
  dev_t device;
  ino_t node;
  bool operator==(const FolderIdentity&) const = default;
};

struct Entry {
  std::string name;
  bool is_folder;
  FolderIdentity identity;
};

void describe_entry(const std::string& path, bool follows_links, Entry& entry) {
  struct stat info {};
  TORCH_CHECK(::lstat(path.c_str(), &info) == 0, path,
              ": cannot be looked at: ", native::error_text(errno));
  if (S_ISLNK(info.st_mode)) {
    TORCH_CHECK(follows_links, path,
                ": is a symbolic link; SymbolicLinks::Follow would let it be one");
    // Points to nothing: a file that cannot be opened, as for Python's os.walk.
    if (::stat(path.c_str(), &info) != 0) {
      TORCH_CHECK(errno == ENOENT || errno == ELOOP, path,
                  ": cannot be followed: ", native::error_text(errno));
      entry.is_folder = false;
      return;
    }
  }
  entry.is_folder = S_ISDIR(info.st_mode);
  entry.identity = {info.st_dev, info.st_ino};
}

std::vector<Entry> entries_of(const std::string& path, bool follows_links) {
  const std::unique_ptr<DIR, CloseFolder> folder(::opendir(path.c_str()));
  TORCH_CHECK(folder != nullptr, path,
              ": the folder cannot be opened: ", native::error_text(errno));
  std::vector<Entry> entries;
  for (;;) {
    errno = 0;
    const auto* found = ::readdir(folder.get());
    if (found == nullptr) break;
    const std::string_view name = found->d_name;
    if (name == "." || name == "..") continue;
    Entry entry{std::string(name), false, {}};
    // The kernel says of most entries what they are, so that not every file is looked at.
    if (found->d_type != DT_REG) describe_entry(path + '/' + entry.name, follows_links, entry);
    entries.push_back(std::move(entry));
  }
  TORCH_CHECK(errno == 0, path, ": the folder cannot be read: ", native::error_text(errno));
  return entries;
}

std::string in_small_letters(std::string text) {
  for (char& letter : text) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return text;
}

// The extensions have small letters.
bool ends_in_one_of(const std::string& name, const std::vector<std::string>& extensions) {
  const auto small = in_small_letters(name);
  return std::any_of(extensions.begin(), extensions.end(),
                     [&](const std::string& end) { return small.ends_with(end); });
}

// The folders from a class down to where the walk is, and what it has found.
struct Walk {
  const std::string& root;
  bool follows_links;
  std::vector<FolderIdentity> above;
  std::vector<std::pair<std::string, std::vector<std::string>>> folders;  // path, names of files

  void visit(const std::string& path) {
    std::vector<std::string> files;
    for (const auto& entry : entries_of(root + '/' + path, follows_links)) {
      if (!entry.is_folder) {
        files.push_back(entry.name);
        continue;
      }
      const auto below = path + '/' + entry.name;
      TORCH_CHECK(std::find(above.begin(), above.end(), entry.identity) == above.end(), root, '/',
                  below, ": is a symbolic link to a folder above it");
      above.push_back(entry.identity);
      visit(below);
      above.pop_back();
    }
    folders.emplace_back(path, std::move(files));
  }
};

FolderIdentity identity_of(const std::string& path) {
  struct stat info {};
  TORCH_CHECK(::stat(path.c_str(), &info) == 0, path,
              ": cannot be looked at: ", native::error_text(errno));
  return {info.st_dev, info.st_ino};
}

}  // namespace

FolderWalk::FolderWalk(std::string root, bool follows_links, std::vector<std::string> extensions)
    : root_(std::move(root)), follows_links_(follows_links), extensions_(std::move(extensions)) {
  for (auto& extension : extensions_) extension = in_small_letters(std::move(extension));
}

std::vector<std::string> FolderWalk::folders() const {
  std::vector<std::string> names;
  for (auto& entry : entries_of(root_, follows_links_)) {
    if (entry.is_folder) names.push_back(std::move(entry.name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> FolderWalk::files_below(const std::string& folder) const {
  Walk walk{root_, follows_links_, {identity_of(root_), identity_of(root_ + '/' + folder)}, {}};
  walk.visit(folder);
  std::sort(walk.folders.begin(), walk.folders.end());
  std::vector<std::string> paths;
  for (auto& [path, names] : walk.folders) {
    std::sort(names.begin(), names.end());
    for (const auto& name : names) {
      if (ends_in_one_of(name, extensions_)) paths.push_back(path + '/' + name);
    }
  }
  return paths;
}

}  // namespace lockstep::data

// SPDX-License-Identifier: BSD-3-Clause
#include "picture_folder.h"

#include "drawn_pictures.h"

#include <torch/torch.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kLongestPath = 4096;

// What rank 0 has to say, on every rank.
std::string from_rank_0(lockstep::ProcessGroup& group, const std::string& text) {
  const auto bytes = torch::zeros({kLongestPath}, torch::kByte);
  auto* first = static_cast<char*>(bytes.mutable_data_ptr());
  if (group.rank() == 0) text.copy(first, kLongestPath - 1);
  group.broadcast(bytes).wait();
  return first;
}

// A folder that nobody else can have, beside or instead of the one that is wanted.
fs::path new_folder(const fs::path& prefix) {
  std::string name = prefix.string() + "-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) {
    throw std::runtime_error(name + ": cannot be made: " + std::generic_category().message(errno));
  }
  return name;
}

}  // namespace

PictureFolder::PictureFolder(lockstep::ProcessGroup& group, const std::string& wanted,
                             int per_class) {
  std::string error;
  if (group.rank() == 0) {
    try {
      draw(wanted, per_class);
    } catch (const std::exception& caught) {
      error = caught.what();
      fs::remove_all(temporary_);
    }
  }
  error = from_rank_0(group, error);
  if (!error.empty()) throw std::runtime_error(error);
  path_ = from_rank_0(group, path_.string());
}

PictureFolder::~PictureFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void PictureFolder::draw(const std::string& wanted, int per_class) {
  if (wanted.empty()) {
    path_ = temporary_ = new_folder(fs::temp_directory_path() / "pictures");
    draw_pictures(path_, per_class);
    return;
  }
  // Absolute and without a slash at its end, so that there is a name to put something beside.
  path_ = fs::absolute(wanted).lexically_normal();
  if (!path_.has_filename()) path_ = path_.parent_path();
  if (fs::exists(path_) && !(fs::is_directory(path_) && fs::is_empty(path_))) return;
  fs::create_directories(path_.parent_path());
  // It gets its name when it is whole, so a run that was interrupted leaves no half of it.
  temporary_ = new_folder(path_);
  draw_pictures(temporary_, per_class);
  fs::permissions(temporary_,
                  fs::perms::group_read | fs::perms::group_exec | fs::perms::others_read |
                      fs::perms::others_exec,
                  fs::perm_options::add);
  fs::rename(temporary_, path_);
  temporary_.clear();
}

// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/scalar_tensor.h>
#include <lockstep/data/file_parts.h>
#include <lockstep/data/images/image_folder.h>

#include <cstring>
#include <utility>

#include "data/readers/file_bytes.h"
#include "data/readers/folder_walk.h"

namespace lockstep::data {
namespace {

constexpr std::size_t kNamedAtMost = 10;

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i == kNamedAtMost) return text + ", and " + std::to_string(words.size() - i) + " more";
    text += (i == 0 ? "" : ", ") + words[i];
  }
  return text;
}

// Runs `use` with the decoder of a file. What goes wrong in a step says the file, too.
template <class Use>
auto with_file(const std::string& path, const ImageDecoderOptions& options, const Use& use) {
  const FileBytes file(path, options.max_file_bytes());
  const ImageDecoder decoder(file.bytes(), path, options);
  try {
    return use(decoder);
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (text.starts_with(path)) throw;
    C10_THROW_ERROR(Error, path + ": " + text);  // seen to throw without optimisation, too
  }
}

}  // namespace

// Paths stand one behind the other in one piece of memory, so that a million of them are no million
// allocations, and workers that read them do not make copies of their pages.
struct ImageFolder::Files {
  std::string root;
  std::vector<std::string> classes;
  std::string paths;  // relative to the root
  std::vector<std::uint64_t> ends;
  std::vector<std::int32_t> labels;

  void add(const std::string& path, std::int32_t label) {
    paths += path;
    ends.push_back(paths.size());
    labels.push_back(label);
  }
  std::string path(std::size_t index) const {
    const auto begin = index == 0 ? 0 : ends[index - 1];
    return root + '/' + paths.substr(begin, ends[index] - begin);
  }
};

ImageFolder::ImageFolder(const std::string& root, ImagePipeline pipeline,
                         const ImageFolderOptions& options)
    : pipeline_(std::move(pipeline)), decoder_(options.decoder()) {
  TORCH_CHECK(!options.extensions().empty(), "ImageFolderOptions: there are no extensions");
  const FolderWalk walk(root, options.symbolic_links() == SymbolicLinks::Follow,
                        options.extensions());
  auto files = std::make_shared<Files>();
  files->root = root;
  files->classes = walk.folders();
  TORCH_CHECK(!files->classes.empty(), root,
              ": holds no folder; expected one for each class, with images");
  std::vector<std::string> empty;
  for (std::size_t i = 0; i < files->classes.size(); ++i) {
    const auto paths = walk.files_below(files->classes[i]);
    if (paths.empty()) empty.push_back(files->classes[i]);
    for (const auto& path : paths) files->add(path, static_cast<std::int32_t>(i));
  }
  TORCH_CHECK(options.allow_empty() || empty.empty(), root, ": no image for the classes ",
              joined(empty), "; names of images end in ", joined(options.extensions()),
              " (allow_empty(true) lets a class have none)");
  files->paths.shrink_to_fit();
  files_ = std::move(files);
}

torch::data::Example<> ImageFolder::get(std::size_t index, SampleRandom& random) const {
  const auto path = describe(index);
  auto data = with_file(path, decoder_,
                        [&](const ImageDecoder& decoder) { return pipeline_(decoder, random); });
  return {std::move(data), at::scalar_tensor(label(index), at::kLong)};
}

torch::data::Example<> ImageFolder::get(std::size_t index) const {
  SampleRandom random(0, 0, static_cast<std::int64_t>(index));
  return get(index, random);
}

void ImageFolder::get_into(std::size_t index, std::span<std::byte> data,
                           std::span<std::byte> target, SampleRandom& random) const {
  const auto path = describe(index);
  const std::int64_t number = label(index);
  TORCH_CHECK(target.size() == sizeof(number), "ImageFolder: the target has ", sizeof(number),
              " bytes, the destination ", target.size());
  with_file(path, decoder_,
            [&](const ImageDecoder& decoder) { pipeline_.write(decoder, random, data); });
  std::memcpy(target.data(), &number, sizeof(number));
}

void ImageFolder::get_into(std::size_t index, std::span<std::byte> data,
                           std::span<std::byte> target) const {
  SampleRandom random(0, 0, static_cast<std::int64_t>(index));
  get_into(index, data, target, random);
}

void ImageFolder::check_index(std::size_t index) const {
  TORCH_CHECK(index < size(), "ImageFolder: index ", index, " is not below the size ", size());
}

std::size_t ImageFolder::size() const noexcept {
  return files_->labels.size();
}

std::string ImageFolder::describe(std::size_t index) const {
  check_index(index);
  return files_->path(index);
}

void ImageFolder::files_of(std::size_t index, FileParts& parts) const {
  parts.add(describe(index));
}

std::int64_t ImageFolder::label(std::size_t index) const {
  check_index(index);
  return files_->labels[index];
}

const std::vector<std::string>& ImageFolder::classes() const noexcept {
  return files_->classes;
}

}  // namespace lockstep::data

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/images/image_pipeline.h>
#include <lockstep/data/samplers/sample_random.h>
#include <torch/arg.h>
#include <torch/data/example.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace lockstep::data {

class FileParts;

/// What is done about symbolic links below the root.
enum class SymbolicLinks : std::uint8_t {
  Follow,  ///< as if what they point to were there; a link to a folder above it is an error
  Refuse,  ///< one below the root is an error
};

/// What an `ImageFolder` is told.
struct LOCKSTEP_API ImageFolderOptions {
  /// Ends of names.
  using Extensions = std::vector<std::string>;

  /// What is done about symbolic links.
  TORCH_ARG(SymbolicLinks, symbolic_links) = SymbolicLinks::Follow;
  /// Lets a class have no image; it keeps its number. Else that is an error.
  TORCH_ARG(bool, allow_empty) = false;
  /// A file is a sample when its name ends with one of these, in large or small letters; others are
  /// passed over. The default is torchvision's list, although only JPEG and PNG files can be
  /// decoded, because a file's number depends on it.
  TORCH_ARG(Extensions, extensions) = {".jpg", ".jpeg", ".png",  ".ppm", ".bmp",
                                       ".pgm", ".tif",  ".tiff", ".webp"};
  /// Limits, and what happens to damaged files and to images that are not upright.
  TORCH_ARG(ImageDecoderOptions, decoder) = {};
};

/// Images in one folder for each class:
///
///     root/cat/1.jpg   root/cat/more/2.png   root/dog/3.jpeg
///
/// Classes are the folders' names in order of their bytes; the files of a class are in the order of
/// their folders' paths, then of their names. So classes and indices are those of
/// `torchvision.datasets.ImageFolder`. The folder is read once, at construction; a file when its
/// sample is asked for.
///
/// Thread-safety: const members may be called from several threads.
/// Owns: the list of files, which copies share.
class LOCKSTEP_API ImageFolder {
 public:
  /// Reads which files there are, not what is in them.
  /// Blocks: as long as reading the folders takes.
  /// Throws: `c10::Error` naming the folder that cannot be read or holds no class, the classes
  /// without images, and the symbolic link that is refused or leads in circles.
  explicit ImageFolder(const std::string& root, ImagePipeline pipeline = {},
                       const ImageFolderOptions& options = {});

  /// Decodes and transforms one file.
  /// Shapes: data as the pipeline gives it, target int64 {}.
  /// Throws: `c10::Error` when `index` is not below `size()`; naming the file, when it cannot be
  /// read, decoded or transformed.
  [[nodiscard]] torch::data::Example<> get(std::size_t index, SampleRandom& random) const;
  /// The same with random numbers that depend on the index alone; they are equal in every epoch.
  [[nodiscard]] torch::data::Example<> get(std::size_t index) const;

  /// Writes what `get` with the same `random` would return straight to where it belongs.
  /// Throws: as `get`, and when a destination has another size than the sample.
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target,
                SampleRandom& random) const;
  /// The same with random numbers that depend on the index alone.
  /// Throws: as the function above.
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target) const;

  /// Files of all classes.
  [[nodiscard]] std::size_t size() const noexcept;
  /// The file of a sample.
  [[nodiscard]] std::string describe(std::size_t index) const;
  /// Names the file of a sample (`DataLoaderOptions::read_ahead`).
  /// Throws: `c10::Error` when `index` is not below `size()`.
  void files_of(std::size_t index, FileParts& parts) const;
  /// The class of a sample.
  [[nodiscard]] std::int64_t label(std::size_t index) const;
  /// The names of the classes, in the order of their numbers.
  [[nodiscard]] const std::vector<std::string>& classes() const noexcept;

 private:
  struct Files;
  void check_index(std::size_t index) const;

  std::shared_ptr<const Files> files_;
  ImagePipeline pipeline_;
  ImageDecoderOptions decoder_;
};

}  // namespace lockstep::data

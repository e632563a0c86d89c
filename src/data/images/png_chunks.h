// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::data {

/// A piece of a PNG file. What its length claims beyond the file's end is not in `content`.
struct PngChunk {
  std::span<const std::byte> type;  // 4 letters
  std::span<const std::byte> content;
  bool is_whole = false;  // content and checksum are all there

  [[nodiscard]] bool is(std::string_view letters) const;
  /// Whole, and the checksum fits. Reads all of the content.
  [[nodiscard]] bool is_intact() const;
};

/// Walks over the chunks of a PNG file in memory, behind its signature.
///
/// Thread-safety: none. Owns: nothing.
class PngChunks {
 public:
  explicit PngChunks(std::span<const std::byte> file);

  /// The next chunk, or nothing where the file ends before another one has length and type.
  [[nodiscard]] std::optional<PngChunk> next();

 private:
  std::span<const std::byte> left_;
};

/// The part of a PNG file that the pixels need, in the form of a PNG file that ends behind its last
/// pixels: header, palette where there is one, and pixel data. libpng reads this instead of the
/// file: it takes memory for a chunk before it looks for the bytes, whatever length the chunk
/// claims, and what is beside the pixels shall neither cost memory nor be an error.
///
/// Thread-safety: none. Owns: nothing; the file must outlive it.
class PngPixelStream {
 public:
  explicit PngPixelStream(std::span<const std::byte> file, bool tolerates_damage);

  /// Fills `target`. Does not throw, because libpng is in between: false where the stream ends
  /// before, or something is wrong with it; then `error` says what.
  [[nodiscard]] bool read(std::span<std::byte> target);
  /// All pixels have arrived. libpng goes on inflating in search of the data's end, and what lies
  /// before that may be terabytes: the stream ends soon, behind what a checksum may take.
  void end_soon() noexcept;
  [[nodiscard]] const char* error() const noexcept { return error_; }

 private:
  enum class Part : std::uint8_t { Signature, Head, Content, Checksum };

  [[nodiscard]] bool advance();
  [[nodiscard]] bool find_chunk();
  [[nodiscard]] bool accept(const PngChunk& chunk);
  [[nodiscard]] bool check_content();
  [[nodiscard]] bool refuse(const char* what, const PngChunk& chunk);

  PngChunks chunks_;
  bool tolerates_damage_;
  bool has_palette_ = false;  // the header says that pixels are numbers of colours
  bool has_header_ = false;
  bool has_pixels_ = false;
  bool ends_soon_ = false;
  std::size_t left_to_end_ = 0;
  PngChunk chunk_;
  Part part_ = Part::Signature;
  std::span<const std::byte> piece_;  // what is left of the part
  std::array<std::byte, 8> head_{};   // length and type
  char error_[80] = "";
};

}  // namespace lockstep::data

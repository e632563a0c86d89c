// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <torch/arg.h>
#include <torch/data/example.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace lockstep::files {
class BoundedView;
}  // namespace lockstep::files

namespace lockstep::data {

class FileParts;

/// How tokens are stored.
enum class TokenFormat {
  Llmc,        ///< llm.c: a header of 256 int32, which tells uint16 from uint32
  BareUInt16,  ///< nanoGPT: uint16 from the first byte to the last
  BareUInt32,  ///< uint32 from the first byte to the last
};

/// What a `TokenFile` is told.
struct LOCKSTEP_API TokenFileOptions {
  /// Tokens of a window; at least 1.
  TORCH_ARG(std::int64_t, block) = 0;
  /// Tokens from the start of one window to the start of the next; 0 = `block`, 1 = a window at
  /// every token.
  TORCH_ARG(std::int64_t, stride) = 0;
  /// How the file stores tokens.
  TORCH_ARG(TokenFormat, format) = TokenFormat::Llmc;
  /// Every token must be below it; 0 = not checked. An embedding on a GPU says nothing useful
  /// about a token that it does not have.
  TORCH_ARG(std::int64_t, vocabulary) = 0;
};

/// Windows of a file of tokens: `block` tokens as data, and the tokens that follow each of them as
/// target. The file is mapped, so all processes of a host share it; it must not be made shorter
/// meanwhile.
///
/// Thread-safety: const members may be called from several threads. Copies share the file.
/// Source: llm.c's `dataloader.h` and its writers (magic 20240520 version 1: uint16; magic 20240801
/// version 7: uint32), nanoGPT's `prepare.py`; all little-endian.
class LOCKSTEP_API TokenFile {
 public:
  /// Opens the file and reads its header.
  /// Throws: `c10::Error` naming the file, the byte, what was expected and what was found, when the
  /// header is none of the known ones or the file is shorter or longer than it says; when there is
  /// not one window; for options out of range.
  explicit TokenFile(const std::string& path, const TokenFileOptions& options);

  /// One window, and the same window one token on.
  /// Shapes: data int64 {block}, target int64 {block}.
  /// Throws: `c10::Error` when `index` is not below `size()`, and naming file, byte and value of a
  /// token that is not in the vocabulary.
  [[nodiscard]] torch::data::Example<> get(std::size_t index) const;
  /// Writes what `get(index)` would return straight to where it belongs.
  /// Throws: as `get`, and when a destination has another size than the sample.
  void get_into(std::size_t index, std::span<std::byte> data, std::span<std::byte> target) const;

  /// Windows.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// Tokens of the file.
  [[nodiscard]] std::uint64_t tokens() const noexcept { return tokens_; }
  /// Names the bytes of a sample (`DataLoaderOptions::read_ahead`).
  /// Throws: `c10::Error` when `index` is not below `size()`.
  void files_of(std::size_t index, FileParts& parts) const;
  /// File, tokens and byte of a window, for messages.
  [[nodiscard]] std::string describe(std::size_t index) const;

 private:
  [[nodiscard]] std::uint64_t first_token(std::size_t index) const;
  void read_llmc_header();

  std::shared_ptr<const files::BoundedView> file_;
  std::uint64_t block_;
  std::uint64_t stride_;
  std::int64_t vocabulary_;
  std::uint64_t start_ = 0;  // byte of the first token
  std::uint64_t width_ = 2;  // bytes of a token
  std::uint64_t tokens_ = 0;
  std::size_t size_ = 0;
};

}  // namespace lockstep::data

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/tcp/announcements.h"
#include "comm/tcp/chain_reduction.h"
#include "comm/tcp/engine.h"
#include "comm/tcp/mailbox.h"
#include "comm/tcp/mesh.h"
#include "comm/tcp/owner_reduction.h"
#include "comm/tcp/sizes.h"
#include "comm/tcp/stream.h"

namespace lockstep {

/// This rank's connections to all other ranks of a group, and what goes over them. The control
/// connection carries frames: announcements, heads of messages, and the word of a rank that aborts
/// or leaves.
///
/// Thread-safety: as the functions say; `lock` is that of the engine. Holds no torch.
class TcpConnections {
 public:
  /// `sockets`: of `TcpMesh::connect`; `names`: how errors call the ranks. Throws:
  /// `std::system_error`.
  TcpConnections(int rank, std::vector<TcpSockets> sockets, std::vector<std::string> names,
                 bool has_thread);
  /// Nothing moves any more, and nobody's memory is touched. In a fork: only closes what is a copy.
  ~TcpConnections();
  TcpConnections(const TcpConnections&) = delete;
  TcpConnections& operator=(const TcpConnections&) = delete;

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int world_size() const noexcept { return static_cast<int>(peers_.size()); }
  [[nodiscard]] const std::string& name_of(int rank) const {
    return peers_[static_cast<std::size_t>(rank)].name;
  }
  [[nodiscard]] TcpEngine& engine() noexcept { return engine_; }
  [[nodiscard]] const TcpSizes& sizes() const noexcept { return sizes_; }
  /// The same on all ranks. No reduction is under way.
  void set_sizes(const TcpSizes& sizes);

  // --- with the lock held ---

  [[nodiscard]] TcpAnnouncements& announcements() noexcept { return announcements_; }
  [[nodiscard]] TcpMailbox& mailbox() noexcept { return *mailbox_; }
  [[nodiscard]] OwnerReductions& reductions() noexcept { return *reductions_; }
  /// Of another rank.
  [[nodiscard]] TcpStream& stream(int rank, TcpChannel channel) noexcept {
    return *peers_[static_cast<std::size_t>(rank)].streams[static_cast<std::size_t>(channel)];
  }
  /// Before the task begins: its transfers go on while the program computes.
  void move_in_background(TcpTask& task);
  /// The chain stays until it is done.
  void start(const std::shared_ptr<TcpChainReduction>& chain);
  /// What goes into a frame, one part behind the other.
  using FrameParts = std::span<const std::span<const std::byte>>;
  /// Tells all ranks, at once, and copies the values. Returns the number of the collective.
  std::uint64_t announce(const Fingerprint& own, FrameParts values);

  /// What keeps a rank from ever coming: it has aborted, or its process or host has gone. What it
  /// sent before may still be on its way; `since` is when this rank heard of it.
  struct Loss {
    int rank = 0;
    std::string text;
    bool is_its_word = false;  ///< the rank itself has said why
    std::chrono::steady_clock::time_point since;
  };
  /// Looks for one.
  [[nodiscard]] const std::optional<Loss>& find_loss();
  /// Whether a rank has closed the group in order.
  [[nodiscard]] bool has_left(int rank) const {
    return peers_[static_cast<std::size_t>(rank)].has_left;
  }
  /// The first rank for whose bytes of a collective this one waits.
  [[nodiscard]] std::optional<int> awaited() const;
  /// Ranks whose bytes this one waits for, or that do not take this one's; empty: none.
  [[nodiscard]] std::string describe_slow() const;

  // --- without it ---

  /// Tells the other ranks, once; from then on no data moves and the memory is the caller's.
  void announce_abort(const std::string& reason) noexcept;
  /// After a barrier: tells the other ranks that this one leaves, and waits until they do so too.
  /// Collective. Blocks: until `limit` has passed at the latest.
  void close(std::chrono::milliseconds limit);

 private:
  enum class FrameKind : std::uint32_t { Announcement = 1, MessageHead, Question, Abort, Goodbye };
  struct Frame {
    FrameKind kind{};
    std::uint32_t bytes = 0;
    std::uint64_t number = 0;
  };
  struct Peer {
    std::string name;
    std::vector<std::unique_ptr<TcpStream>> streams;  // by channel; this rank itself has none
    Frame frame;                                      // that comes
    std::vector<std::byte> body;
    bool has_left = false;
  };

  void receive_frame(int rank);
  void take_frame(int rank);
  using SharedFrame = std::shared_ptr<const std::vector<std::byte>>;
  [[nodiscard]] static SharedFrame make_frame(FrameKind kind, std::uint64_t number,
                                              std::span<const std::byte> first,
                                              FrameParts others = {});
  void send_frame(int rank, const SharedFrame& frame);
  void send_to_all(const SharedFrame& frame);
  void lose(int rank, std::string text, bool is_its_word = false);
  [[nodiscard]] bool is_other(std::size_t rank) const noexcept {
    return rank != static_cast<std::size_t>(rank_);
  }
  [[nodiscard]] bool have_all_left();

  int rank_;
  TcpSizes sizes_;
  TcpEngine engine_;
  std::vector<Peer> peers_;
  TcpAnnouncements announcements_;
  std::unique_ptr<TcpMailbox> mailbox_;
  std::unique_ptr<OwnerReductions> reductions_;
  std::vector<std::shared_ptr<TcpChainReduction>> chains_;
  std::optional<Loss> loss_;
  bool has_aborted_ = false;
  native::OwningProcess owner_;
};

}  // namespace lockstep

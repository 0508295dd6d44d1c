// Lines of text without stdio and without memory: warnings, misuse reports, statistics.
#pragma once

#include "hugepage/base.h"

namespace pagoda {

// A line under construction, in a buffer the caller owns. What does not fit is cut.
class text {
  public:
    text(char *buf, size_t cap) : buf_(buf), cap_(cap) {}

    text &operator<<(const char *s);
    text &operator<<(char c);
    text &operator<<(uint64_t v); // decimal
    text &operator<<(int v);
    text &operator<<(uint32_t v) { return *this << static_cast<uint64_t>(v); }
    text &operator<<(const void *p); // 0x…

    const char *data() const { return buf_; }
    size_t size() const { return len_; }

  private:
    char *buf_;
    size_t cap_;
    size_t len_ = 0;
};

// One with room before and behind it, so that warn() needs no copy.
class text_line : public text {
  public:
    // "pagoda: <line>\n"; not terminated, *size long.
    const char *whole(size_t *size) const;

  protected:
    static constexpr size_t kLead = 8;
    text_line(char *storage, size_t cap) : text(storage + kLead, cap), storage_(storage) {}

  private:
    char *storage_;
};

template <size_t N> class text_buffer : public text_line {
  public:
    text_buffer() : text_line(storage_, N) {}

  private:
    char storage_[kLead + N + 1];
};

// "pagoda: <line>\n" on stderr in one write.
void warn(const text_line &line);

// A program's misuse of its memory (double free, invalid free, …): one line that names the fault,
// then SIGABRT; with on_error=report the line only. Every report is counted.
void misuse(const text_line &line);
// The same where nothing is lost: the program goes on in any case.
void harmless_misuse(const text_line &line);
// The same as misuse() for one whose line was written by somebody else.
void misuse_told();
uint64_t misuse_count();

} // namespace pagoda

-- An order book: loaded, indexed, joined, updated, searched. The number of rows comes from the table
-- `size`, made by whoever reads this file; every value follows from the row's number.
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, city TEXT, credit REAL);
CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer INTEGER, item TEXT, amount INTEGER, note TEXT);

BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < (SELECT rows FROM size) / 10)
INSERT INTO customer SELECT i, 'customer ' || i, 'city ' || (i * 7919 % 211), i * 31 % 1000 / 7.0 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < (SELECT rows FROM size))
INSERT INTO purchase
SELECT i, 1 + i * 2654435761 % ((SELECT rows FROM size) / 10), 'item ' || (i * 48271 % 997),
       i * 16807 % 1000, substr(hex(i * 1103515245), 1, 4 + i % 24) FROM n;
COMMIT;

CREATE INDEX purchase_customer ON purchase(customer);
CREATE INDEX purchase_item ON purchase(item, amount);

SELECT city, count(*), sum(amount), round(avg(credit), 6) FROM customer JOIN purchase ON customer.id = customer
GROUP BY city ORDER BY 3 DESC, 1 LIMIT 20;
SELECT item, total, rank() OVER (ORDER BY total DESC, item)
FROM (SELECT item, sum(amount) AS total FROM purchase GROUP BY item) ORDER BY total DESC, item LIMIT 10;

BEGIN;
UPDATE purchase SET note = note || ' paid' WHERE amount > 500;
DELETE FROM purchase WHERE amount BETWEEN 100 AND 150;
INSERT INTO purchase SELECT id + 10000000, customer, item, amount + 1, upper(note) FROM purchase WHERE id % 5 = 0;
COMMIT;

SELECT count(*), sum(length(group_note)) FROM
  (SELECT customer, group_concat(note, ',') AS group_note FROM purchase GROUP BY customer);
SELECT count(DISTINCT note), count(*) FROM purchase WHERE note LIKE '%3 paid';
SELECT json_group_array(json_object('n', name, 'c', city)) ->> '$[7].c' FROM customer;
SELECT count(*), sum(amount), sum(length(note)) FROM purchase;
